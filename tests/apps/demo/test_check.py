from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from apps.demo.check import ask_over_port, check_demo, drawn_picture
from finetune.errors import ResourceError
from finetune.images.decode import decode_image

SEEN = {"name": "check.png", "models": {"CE": {"class": "0-2", "probability": 0.5, "probs": {}}}}


@contextmanager
def stand_in(answer: str, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Serve what gradio would, `answer` as the stream of events; gives the address and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def reply(self, body: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def do_POST(self) -> None:
            asked.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path.endswith("upload"):
                assert b"\x89PNG" in body
            self.reply('["/up/check.png"]' if self.path.endswith("upload") else '{"event_id": "7"}')

        def do_GET(self) -> None:
            asked.append(self.path)
            self.reply(answer)

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def complete(value: object) -> str:
    return f"event: heartbeat\ndata: null\n\nevent: complete\ndata: {json.dumps([value])}\n\n"


def test_it_uploads_calls_and_reads_the_answer():
    value = {"pictures": [SEEN], "errors": [], "status": "1 image, 1 model, 0.1 s on CPU"}
    with stand_in(complete(value)) as (url, asked):
        assert check_demo(url, None, None) == value
    assert asked == ["/gradio_api/upload", "/gradio_api/call/predict", "/gradio_api/call/predict/7"]


def test_it_signs_in_where_the_demo_asks():
    with stand_in(complete({"pictures": [SEEN], "errors": [], "status": ""})) as (url, asked):
        ask_over_port(url, drawn_picture(), cropped=True, person=("ada", "secret"))
    assert asked[0] == "/login"


@pytest.mark.parametrize(
    ("answer", "status"),
    [("event: error\ndata: null\n\n", 200), ("nonsense", 200), (complete(3), 200), ("", 503)],
)
def test_a_demo_that_does_not_answer_is_an_error_in_words(answer, status):
    with stand_in(answer, status) as (url, _), pytest.raises(ResourceError, match="does not answer"):
        ask_over_port(url, drawn_picture(), cropped=True)


def test_an_answer_without_a_class_fails_the_check():
    value = {"pictures": [], "errors": [{"name": "", "reason": "no model"}], "status": ""}
    with stand_in(complete(value)) as (url, _), pytest.raises(ResourceError, match="with no class"):
        check_demo(url, None, None)


def test_nobody_at_the_port_is_an_error_in_words():
    with pytest.raises(ResourceError, match="does not answer"):
        ask_over_port("http://127.0.0.1:9/", drawn_picture(), cropped=True)


def test_the_drawn_picture_is_a_picture():
    assert decode_image(drawn_picture()).shape == (96, 96, 3)
