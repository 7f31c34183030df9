"""Whom the demo answers, and what for: rules on a request's head, plain functions that refuse in words."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})
FILE_ROUTE = "/gradio_api/file="
UPLOAD_ROUTE = "/gradio_api/upload"

# What the page, gradio_client and curl need; gradio has some eighty routes more.
_ROUTES = {
    "GET": re.compile(
        r"/|/(config|theme\.css|favicon\.ico|pwa_icon|manifest\.json|robots\.txt|logout)|/(assets|static|svelte)/.+"
        r"|/gradio_api/(info|startup-events|upload_progress|queue/data|heartbeat/[\w-]+|file=.+)"
        r"|/gradio_api/call/(v2/)?[\w-]+/[\w-]+",
        re.DOTALL,
    ),
    "HEAD": re.compile(r"/|/gradio_api/file=.+", re.DOTALL),
    "POST": re.compile(
        r"/login|/gradio_api/(upload|reset|cancel|queue/join|run/[\w-]+|call/(v2/)?[\w-]+)",
    ),
}
# These let a caller choose the addresses that gradio writes into pages it keeps for others.
_DROPPED_HEADERS = frozenset({b"x-forwarded-host", b"x-forwarded-prefix", b"x-gradio-server"})


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault
    """A request that is not served: the HTTP status and a sentence for the person who asked."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True)
class Head:
    """What a request says before its body: method, decoded path, and header values by lower-case name."""

    method: str
    path: str
    headers: Mapping[bytes, tuple[str, ...]]

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> Head:
        """Return the head of an ASGI request."""
        headers: dict[bytes, tuple[str, ...]] = {}
        for name, value in scope["headers"]:
            headers[name.lower()] = (*headers.get(name.lower(), ()), value.decode("latin-1"))
        return cls(scope["method"], scope["path"], headers)

    def one(self, name: bytes) -> str | None:
        """Return a header's only value, None where it is absent; refuse one that is given twice."""
        values = self.headers.get(name, ())
        if len(values) > 1:
            raise Refusal(400, f"The header {name.decode()} may be given once only.")
        return values[0] if values else None


def known_names(host: str) -> frozenset[str]:
    """Return the names by which a demo that listens on `host` may be called.

    >>> sorted(known_names("127.0.0.1"))
    ['127.0.0.1', '::1', 'localhost']
    """
    own = socket.gethostname().lower()
    extra = {own, f"{own}.local", *ANY_ADDRESS} if host in ANY_ADDRESS else {host.strip("[]").lower()}
    return LOOPBACK_NAMES | extra


def check_host(head: Head, names: Collection[str]) -> None:
    """Refuse a request under another name, as a web page that has its own name point here would send it.

    A demo that listens on every address also answers to any bare IP address: such a page needs a name.
    """
    host = head.one(b"host") or ""
    name = _host_name(host)
    if name in names or (not ANY_ADDRESS.isdisjoint(names) and _is_address(name)):
        return
    raise Refusal(
        421, f"This demo does not answer to the name {name[:100]!r}; start it with --host and that name."
    )


def check_origin(head: Head) -> None:
    """Refuse what another web page sends or embeds; following a link to the demo's own page is fine.

    A browser says where a request comes from (Origin, Sec-Fetch-Site); curl and gradio_client say nothing.
    """
    origin, site = head.one(b"origin"), head.one(b"sec-fetch-site")
    if origin is not None and not _same_place(origin, head.one(b"host") or ""):
        raise Refusal(403, "Another web page may not use this demo; open the demo's own page.")
    if site in (None, "same-origin", "none"):
        return
    opened = head.method == "GET" and head.path == "/" and head.one(b"sec-fetch-mode") == "navigate"
    if not opened:
        raise Refusal(403, "Another web page may not use this demo; open the demo's own page.")


def check_route(head: Head) -> None:
    """Refuse a path that the demo does not need."""
    known = _ROUTES.get(head.method)
    path = head.path if len(head.path) == 1 or FILE_ROUTE in head.path else head.path.removesuffix("/")
    if known is None or known.fullmatch(path) is None:
        raise Refusal(404, "There is nothing at this address.")


def without_dropped(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request without headers that change the addresses written into the page."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _DROPPED_HEADERS]
    return {**scope, "headers": headers}


def _host_name(host: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/@\s]+)(:\d{1,5})?", host)
    return match.group(1).strip("[]").lower() if match else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_place(origin: str, host: str) -> bool:
    scheme, found, place = origin.partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme)
    if not found or default is None:
        return False
    return place.lower().removesuffix(default) == host.lower().removesuffix(default)
