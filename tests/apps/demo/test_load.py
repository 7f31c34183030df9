"""The whole demo with many people at once, and with people who leave in the middle (faults 24 and 25)."""

import contextlib
import csv
import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from apps.runtime.session import OnnxClassifier
from tests.apps.live_demo import blank_png, form, live_demo, picture
from tests.apps.tiny_onnx import tiny_facts, write_tiny

pytestmark = [pytest.mark.alone, pytest.mark.exhaustive]

TITLES = ("ce", "crl")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [
        write_tiny(folder / f"{title}.onnx", tiny_facts(title=title), seed=seed)
        for seed, title in enumerate(TITLES)
    ]


@pytest.fixture(scope="module")
def known(models):
    """The models themselves, to tell which answers are right."""
    return dict(zip(TITLES, (OnnxClassifier(path, device="cpu") for path in models), strict=True))


@pytest.fixture(scope="module")
def demo(tmp_path_factory, models):
    with live_demo(tmp_path_factory.mktemp("tmp"), models) as demo:
        yield demo
        assert "Traceback" not in demo.said


@pytest.fixture(scope="module")
def narrow(tmp_path_factory, models):
    """A demo that answers one request at a time and lets three wait."""
    with live_demo(tmp_path_factory.mktemp("tmp"), models, "--queue", "3", "--concurrency", "1") as demo:
        yield demo
        assert "Traceback" not in demo.said


@pytest.fixture(scope="module")
def slow_picture():
    """An image that takes a noticeable time to decode."""
    return blank_png(7000, 6000)


def is_right(answer, content, known):
    """Return whether an answer to one image is what the models themselves say of it, in every number."""
    assert answer["errors"] == []
    (row,) = answer["pictures"]
    for title, model in known.items():
        (expected,) = model.predict([content])
        probs = np.array(list(row["models"][title]["probs"].values()))
        if not np.allclose(probs, expected.probs, atol=1e-6):
            return False
        if row["models"][title]["class"] != expected.class_name:
            return False
    return list(row["models"]) == list(known)


def at_once(function, items):
    """Call `function` for every item in a thread of its own, at the same time; return results in order."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(function, items))


def test_fifty_people_with_the_same_picture_all_get_the_right_answer(demo, known):
    content = picture(1)
    answers = at_once(lambda number: demo.predict([("same.png", content)]), range(50))
    assert all(is_right(answer, content, known) for answer in answers)
    assert len({str(answer["pictures"]) for answer in answers}) == 1


def test_fifty_people_with_different_pictures_get_their_own_answers(demo, known):
    contents = [picture(number) for number in range(100, 150)]
    answers = at_once(
        lambda number: demo.predict([(f"{number}.png", contents[number])]), range(len(contents))
    )
    assert [answer["pictures"][0]["name"] for answer in answers] == [f"{number}.png" for number in range(50)]
    assert all(is_right(answer, content, known) for answer, content in zip(answers, contents, strict=True))
    assert len({str(answer["pictures"][0]["models"]) for answer in answers}) == 50


def test_people_who_choose_different_models_get_theirs(demo, known):
    content = picture(7)
    chosen = [["ce"], ["crl"], ["ce", "crl"]] * 5
    answers = at_once(lambda models: demo.predict([("a.png", content)], models), chosen)
    for answer, models in zip(answers, chosen, strict=True):
        assert is_right(answer, content, {title: known[title] for title in models})


def test_no_download_is_broken_or_another_persons(demo):
    def download(number):
        name = f"mine-{number}.png"
        path = demo.upload([(name, picture(number))]).json[0]
        page, *files = demo.press(path, list(TITLES))
        table, drawing = (demo.ask("GET", f"/gradio_api/file={quote(file)}").body for file in files)
        return name, page, table, drawing

    for name, page, table, drawing in at_once(download, range(12)):
        assert name in page
        assert name in table.decode()
        assert len(list(csv.reader(io.StringIO(table.decode())))) == 1 + len(TITLES)
        assert cv2.imdecode(np.frombuffer(drawing, np.uint8), cv2.IMREAD_COLOR) is not None


def test_a_hundred_at_once_are_served_or_told_that_the_queue_is_full(demo, known):
    contents = [picture(number) for number in range(200, 300)]
    paths = [demo.upload([(f"{number}.png", content)]).json[0] for number, content in enumerate(contents)]
    start = time.perf_counter()

    def ask(path):
        joined = demo.join([path])
        return joined if joined.status != 200 else demo.result(joined.json["event_id"])

    answers = at_once(ask, paths)
    assert time.perf_counter() - start < 60
    served = 0
    for answer, content in zip(answers, contents, strict=True):
        if isinstance(answer, dict):
            assert is_right(answer, content, known)
            served += 1
        else:
            assert answer.status == 503
            assert "Queue is full" in answer.text
    assert served >= 64
    assert is_right(demo.predict([("after.png", contents[0])]), contents[0], known)


def test_more_than_may_wait_are_told_so_and_the_others_are_served(narrow, slow_picture):
    path = narrow.upload([("slow.png", slow_picture)]).json[0]
    replies = at_once(lambda number: narrow.join([path]), range(24))
    full = [reply for reply in replies if reply.status == 503]
    waiting = [reply.json["event_id"] for reply in replies if reply.status == 200]
    assert full
    assert len(full) + len(waiting) == 24
    assert all("Queue is full. Max size is 3" in reply.json["detail"] for reply in full)
    answers = [narrow.result(event) for event in waiting]
    assert all(len(answer["pictures"]) == 1 for answer in answers)


def test_gradios_own_client_is_told_that_the_queue_is_full(narrow, slow_picture):
    from gradio_client import Client, handle_file
    from gradio_client.utils import QueueError

    path = narrow.upload([("slow.png", slow_picture)]).json[0]
    client = Client(
        f"http://127.0.0.1:{narrow.port}", verbose=False, analytics_enabled=False, download_files=False
    )
    small = narrow.home / "small.png"
    small.write_bytes(picture(5))
    told = threading.Event()

    def keep_full():
        while not told.is_set():
            narrow.join([path])

    with ThreadPoolExecutor(2) as pool:
        fillers = [pool.submit(keep_full) for _ in range(2)]
        try:
            with pytest.raises(QueueError, match="Queue is full"):
                ask_until_refused(client, small)
        finally:
            told.set()
        for filler in fillers:
            filler.result()
    answer, deadline = None, time.monotonic() + 30
    while answer is None and time.monotonic() < deadline:
        with contextlib.suppress(QueueError):  # until a place is free again
            answer = client.predict([handle_file(str(small))], None, True, None, api_name="/predict")
    assert answer["pictures"][0]["name"] == "small.png"
    client.close()


def test_people_who_leave_while_they_wait_free_their_places(narrow, slow_picture, known):
    path = narrow.upload([("slow.png", slow_picture)]).json[0]
    for _ in range(3):  # more than the queue holds, were places lost
        for reply in at_once(lambda number: narrow.join([path]), range(8)):
            if reply.status == 200:
                leave_in_the_middle(narrow, f"/gradio_api/call/predict/{reply.json['event_id']}")
    content = picture(8)
    start = time.monotonic()
    uploaded = narrow.upload([("mine.png", content)]).json
    while (joined := narrow.join(uploaded)).status == 503 and time.monotonic() - start < 30:
        time.sleep(0.05)
    assert is_right(narrow.result(joined.json["event_id"]), content, known)
    assert time.monotonic() - start < 20


def test_people_who_never_come_back_for_their_answers_free_their_places(narrow, slow_picture, known):
    path = narrow.upload([("slow.png", slow_picture)]).json[0]
    for _ in range(3):
        at_once(lambda number: narrow.join([path]), range(8))
        time.sleep(0.2)
    content, start = picture(9), time.monotonic()
    uploaded = narrow.upload([("mine.png", content)]).json
    while (joined := narrow.join(uploaded)).status == 503 and time.monotonic() - start < 30:
        time.sleep(0.05)
    assert is_right(narrow.result(joined.json["event_id"]), content, known)


def test_an_upload_that_breaks_off_leaves_nothing(narrow):
    before = sorted(narrow.files())
    body, kind = form([("half.png", b"x" * 3_000_000)])
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    connections = []
    for _ in range(5):
        connections.append(socket.create_connection(("127.0.0.1", narrow.port), timeout=10))
        connections[-1].sendall(head.encode() + body[: len(body) // 2])
    deadline = time.monotonic() + 10
    while len(narrow.files()) < len(before) + 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(narrow.files()) == len(before) + 5  # all of them are half written
    for connection in connections:
        connection.close()
    while len(narrow.files()) > len(before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sorted(narrow.files()) == before
    assert narrow.predict([("fine.png", picture(1))])["errors"] == []


def leave_in_the_middle(demo, path):
    """Ask for a stream, read its first bytes, and hang up."""
    with socket.create_connection(("127.0.0.1", demo.port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connection.recv(10)


def ask_until_refused(client, file):
    """Ask /predict about an image again and again."""
    from gradio_client import handle_file

    for _ in range(50):
        client.predict([handle_file(str(file))], None, True, None, api_name="/predict")
