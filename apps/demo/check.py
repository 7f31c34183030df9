"""One question to a running demo over its port, as any program may ask it: plain HTTP, no gradio."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from typing import Any

import cv2
import numpy as np

from apps.demo.text import percent
from finetune.cli.console import say
from finetune.errors import ResourceError

SECONDS = 60.0
BORDER = "crl-demo-check-7f3a"


def check_demo(url: str, picture: bytes | None, person: tuple[str, str] | None) -> dict[str, Any]:
    """Ask the demo one image, say what it answered, and return that.

    Args:
        url: the demo's address, ending in a slash.
        picture: an image file's bytes; None draws one.
        person: user and password where the demo asks for them.

    Raises ResourceError where the demo does not answer with a class.
    """
    answer = ask_over_port(url, picture or drawn_picture(), cropped=True, person=person)
    for seen in answer["pictures"]:
        for title, said in seen["models"].items():
            say(f"{title}: {said['class']} ({percent(said['probability'])})")
    if not answer["pictures"]:
        raise ResourceError(f"the demo at {url} answers, but with no class: {answer['errors']}")
    say(f"checked: {url} answers, {answer['status']}")
    return answer


def ask_over_port(
    url: str, picture: bytes, *, cropped: bool, person: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Upload an image, call /predict and return its answer.

    Args:
        url: the demo's address, ending in a slash.
        picture: an image file's bytes.
        cropped: the image is a crop already: no face is looked for.
        person: user and password where the demo asks for them.

    Raises ResourceError where the demo does not answer, or answers with something else.
    """
    # No proxy: the demo is on this machine, whatever the environment says of the way out.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar())
    )
    try:
        if person is not None:
            form = urllib.parse.urlencode({"username": person[0], "password": person[1]}).encode()
            _read(opener, f"{url}login", form, "application/x-www-form-urlencoded")
        kind = f"multipart/form-data; boundary={BORDER}"
        stored = json.loads(_read(opener, f"{url}gradio_api/upload", _form(picture), kind))
        file = {"path": stored[0], "meta": {"_type": "gradio.FileData"}}
        call = json.dumps({"data": [[file], None, cropped, None]}).encode()
        event = json.loads(_read(opener, f"{url}gradio_api/call/predict", call, "application/json"))
        return _answer(_read(opener, f"{url}gradio_api/call/predict/{event['event_id']}"))
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ResourceError(f"the demo at {url} does not answer as it should: {error}") from error


def drawn_picture() -> bytes:
    """Return a small image of a smooth shade as the bytes of a PNG file."""
    ramp = np.linspace(40, 220, 96)
    made = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 128.0), axis=2)
    return bytes(cv2.imencode(".png", made.astype(np.uint8))[1].tobytes())


def _form(picture: bytes) -> bytes:
    head = (
        f'--{BORDER}\r\nContent-Disposition: form-data; name="files"; filename="check.png"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + picture + f"\r\n--{BORDER}--\r\n".encode()


def _read(opener: Any, url: str, data: bytes | None = None, kind: str = "") -> bytes:
    request = urllib.request.Request(url, data=data, headers={"Content-Type": kind} if kind else {})
    try:
        with opener.open(request, timeout=SECONDS) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        with error:
            raise OSError(f"{error.code}, {error.read(500).decode(errors='replace')}") from None


def _answer(events: bytes) -> dict[str, Any]:
    """Return the object of the `complete` event in a stream of server-sent events."""
    name = ""
    for line in events.decode().splitlines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "data" and name == "complete":
            return dict(json.loads(value)[0])
    raise ValueError(f"no answer in {events[:300]!r}")
