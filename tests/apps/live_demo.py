"""A demo served by a process of its own, and plain HTTP to ask it whatever a test likes, right or wrong."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

META = {"_type": "gradio.FileData"}


@dataclass
class Reply:
    """What the demo answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


@dataclass
class LiveDemo:
    """A running demo: its process, port, and the file that its words go to."""

    process: subprocess.Popen
    port: int
    log: Path
    home: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def folder(self) -> Path:
        """The upload folder."""
        return next(self.home.glob(f"crl-demo-{self.process.pid}-*"))

    def files(self) -> list[Path]:
        """Return every file in the upload folder."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        seconds: float = 60,
        **headers: str,
    ) -> Reply:
        """Send one request, its path as it is, and return the answer; `_` in a header's name means `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named, encode_chunked=not isinstance(body, bytes | None))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, value: Any, **headers: str) -> Reply:
        """Send a JSON value."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", path, body, Content_Type="application/json", **headers)

    def upload(self, files: Sequence[tuple[str, bytes]], **headers: str) -> Reply:
        """Send images, (name, bytes) each, as the page does."""
        body, kind = form(files)
        return self.ask("POST", "/gradio_api/upload", body, Content_Type=kind, **headers)

    def join(self, paths: Sequence[str], models: list[str] | None = None) -> Reply:
        """Ask /predict about uploaded images; the answer holds the event's id, or a refusal."""
        files = [{"path": path, "meta": META} for path in paths]
        return self.post("/gradio_api/call/predict", {"data": [files, models, True, None]})

    def result(self, event: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for the answer to an event of /predict."""
        reply = self.ask("GET", f"/gradio_api/call/predict/{event}", seconds=seconds)
        return dict(events(reply.text)["complete"][0])

    def predict(
        self, pictures: Sequence[tuple[str, bytes]], models: list[str] | None = None
    ) -> dict[str, Any]:
        """Upload images and return what /predict says of them."""
        uploaded = self.upload(pictures)
        assert uploaded.status == 200, uploaded.text
        joined = self.join(uploaded.json, models)
        assert joined.status == 200, joined.text
        return self.result(joined.json["event_id"])

    def press(self, path: str, models: list[str]) -> list[str]:
        """Press the page's button for one uploaded image, all else as it is: HTML, CSV file, PNG file."""
        config = self.ask("GET", "/config").json
        button = next(item for item in config["dependencies"] if item["api_name"] == "classify")
        item = {"path": path, "url": f"http://127.0.0.1:{self.port}/gradio_api/file={path}", "meta": META}
        given = {"file": [item], "checkboxgroup": models}
        shown = {part["id"]: part for part in config["components"]}
        asked = [shown[number] for number in button["inputs"]]
        data = [given.get(part["type"], part["props"].get("value")) for part in asked]
        session = secrets.token_hex(5)
        call = {"data": data, "fn_index": button["id"], "session_hash": session}
        joined = self.post("/gradio_api/queue/join", call)
        assert joined.status == 200, joined.text
        reply = self.ask("GET", f"/gradio_api/queue/data?session_hash={session}")
        messages = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]
        assert [message["msg"] for message in messages][-2:] == ["process_completed", "close_stream"]
        first = next(message for message in messages if message["msg"] == "process_generating")
        files = [value["value"]["path"] for value in messages[-2]["output"]["data"][1:]]
        return [first["output"]["data"][0], *files]

    def memory(self, name: str) -> int:
        """Return VmRSS or VmHWM (the peak) of the process, in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024

    def forget_peak(self) -> None:
        """Let VmHWM count from now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


@contextmanager
def live_demo(home: Path, models: Sequence[Path], *options: str, **environment: str) -> Iterator[LiveDemo]:
    """Serve the demo from a process whose folder for temporary files is `home`; end it with SIGTERM."""
    port, log = unused_port(), home / f"demo-{secrets.token_hex(4)}.log"
    command = [sys.executable, "-m", "apps.cli", "demo", *map(str, models), "--port", str(port), *options]
    variables = {**os.environ, "TMPDIR": str(home), "OMP_NUM_THREADS": "1", **environment}
    for name in ("ORT_DISABLE_TELEMETRY", "CI"):  # the demo keeps ONNX Runtime from reporting by itself
        variables.pop(name, None)
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=variables)
    demo = LiveDemo(process, port, log, home)
    try:
        deadline = time.monotonic() + 120
        while "open http" not in demo.said and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "open http" in demo.said, demo.said
        yield demo
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
            raise


def unused_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def form(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """Return the body of an upload and its content type."""
    border = f"border{secrets.token_hex(8)}"
    parts = [
        f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{border}--\r\n".encode(), f"multipart/form-data; boundary={border}"


def events(text: str) -> dict[str, Any]:
    """Return the value of each event in a stream of server-sent events, by the event's name."""
    found, name = {}, ""
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            found[name] = json.loads(value)
    return found


def picture(seed: int, side: int = 40) -> bytes:
    """Return a PNG file of one colour per quarter, different for every seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    made = np.repeat(np.repeat(colours, side // 2, axis=0), side // 2, axis=1)
    return bytes(cv2.imencode(".png", made)[1].tobytes())


def blank_png(width: int, height: int) -> bytes:
    """Return a valid grey PNG of any size without ever holding its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
