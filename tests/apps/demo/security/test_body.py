import asyncio
import json
import shutil
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from apps.demo.security.body import (
    ClientGone,
    Inbox,
    Limits,
    check_file_route,
    check_files,
    declared_size,
    read_whole,
    replay,
)
from apps.demo.security.rules import Head, PublicAddress, Refusal
from apps.demo.uploads import UploadFolder
from tests.apps.demo.refusals import refused

META = {"_type": "gradio.FileData"}


@pytest.fixture
def folder(tmp_path):
    with UploadFolder(tmp_path) as folder:
        (folder.path / "abc").mkdir()
        (folder.path / "abc" / "a b#c%20.png").write_text("x")
        yield folder


@pytest.fixture
def own(folder):
    return str(folder.path / "abc" / "a b#c%20.png")


def head(path="/gradio_api/queue/join", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Head.of({"method": "POST", "path": path, "headers": [(b"host", b"localhost:7860"), *pairs]})


def messages(*chunks, gone=False):
    """Return a `receive` that hands out a body in chunks; with `gone` the sender leaves before the end."""
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": gone or number < len(chunks)}
        for number, chunk in enumerate(chunks, start=1)
    ]
    waiting.append({"type": "http.disconnect"})

    async def receive():
        return waiting.pop(0)

    return receive


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"data": [x]}, lambda x: {"data": [[{"deep": [x]}]]}]
)
def test_an_uploaded_picture_may_be_named(folder, own, wrap):
    urls = [None, f"/gradio_api/file={own}", f"http://localhost:7860/gradio_api/file={own}"]
    urls += [f"http://localhost:7860/gradio_api/file={quote(own)}"]
    for url in urls:
        body = json.dumps(wrap({"path": own, "url": url, "meta": META})).encode()
        assert refused(check_files, body, head(), folder) is None
    assert refused(check_files, json.dumps(wrap({"path": own})).encode(), head(), folder) is None


@pytest.mark.parametrize("meta", [META, None, {}, "none", {"_type": "else"}])
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "",
        "../../etc/passwd",
        "https://evil.example/x.png",
        "file:///etc/passwd",
        None,
        5,
        ["a"],
        "/proc/self/environ",
        "\u0000",
        "{folder}",
        "{folder}/../secret.png",
        "{folder}/abc/../abc/a b#c%20.png",
    ],
)
def test_a_file_of_this_machine_may_not_be_named(folder, path, meta):
    path = path.format(folder=folder.path) if isinstance(path, str) else path
    item = {"path": path} if meta == "none" else {"path": path, "meta": meta}
    for value in (item, {"data": [item]}, {"data": [[{"a": {"b": item}}]], "path": 1}):
        assert refused(check_files, json.dumps(value).encode(), head(), folder) == 403


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/x.png",
        "http://evil.example/gradio_api/file={own}",
        "http://169.254.169.254/latest",
        5,
        "",
        "http://localhost:80/gradio_api/file={own}",
        "/gradio_api/file=/etc/passwd",
        "data:image/png;base64,AA",
    ],
)
def test_an_address_instead_of_a_picture_is_refused(folder, own, url):
    url = url.format(own=own) if isinstance(url, str) else url
    assert refused(check_files, json.dumps({"path": own, "url": url}).encode(), head(), folder) == 403
    assert refused(check_files, json.dumps({"url": url}).encode(), head(), folder) == 403


def test_the_last_of_two_equal_keys_counts_as_it_does_for_gradio(folder, own):
    body = f'{{"path": {json.dumps(own)}, "path": "/etc/passwd"}}'.encode()
    assert refused(check_files, body, head(), folder) == 403
    assert refused(check_files, '{"path": "/etc/passwd"}'.encode("utf-16"), head(), folder) == 403


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b"path=/etc/passwd",
        b"{}{}",
        b"[NaN]",
        b"[-Infinity]",
        b"[1e999]",
    ],
)
def test_what_is_no_json_is_refused(folder, body):
    assert refused(check_files, body, head(), folder) == 400


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"data": ["text", 1, true, null]}'])
def test_json_without_files_passes(folder, body):
    assert refused(check_files, body, head(), folder) is None


def test_only_the_upload_folder_is_handed_out(folder, own, tmp_path):
    assert refused(check_file_route, head(f"/gradio_api/file={own}"), folder) is None
    (tmp_path / "secret").write_text("x")
    (folder.path / "link").symlink_to(tmp_path / "secret")
    for path in (
        "/etc/passwd",
        "../../etc/passwd",
        "http://evil.example/",
        str(folder.path / "link"),
        str(folder.path),
    ):
        assert refused(check_file_route, head(f"/gradio_api/file={path}"), folder) == 403


def test_a_small_body_is_read_and_given_again():
    async def go():
        receive = messages(b"ab", b"", b"c")
        body = await read_whole(head(), receive, 3)
        again = replay(body, receive)
        return [body, await again(), await again()]

    body, first, second = asyncio.run(go())
    assert body == b"abc"
    assert first == {"type": "http.request", "body": b"abc", "more_body": False}
    assert second == {"type": "http.disconnect"}


def test_a_body_is_too_large_by_what_it_says_or_by_what_it_brings():
    with pytest.raises(Refusal, match="more than 3 bytes") as declared:
        asyncio.run(read_whole(head(content_length="4"), messages(), 3))
    with pytest.raises(Refusal, match="more than 3 bytes"):
        asyncio.run(read_whole(head(), messages(b"ab", b"cd", b"ef"), 3))
    with pytest.raises(Refusal):
        asyncio.run(read_whole(head(content_length="2"), messages(b"abcd"), 3))
    assert declared.value.status == 413


def test_a_sender_who_leaves_is_noticed():
    with pytest.raises(ClientGone):
        asyncio.run(read_whole(head(), messages(b"ab", gone=True), 3))


@pytest.mark.parametrize("text", ["-1", "1e3", "", "x", "1" * 30, " 5", "\u0665"])
def test_a_size_that_is_no_size(text):
    pairs = [(b"content-length", text.encode("utf-8"))]
    with pytest.raises(Refusal) as caught:
        declared_size(Head.of({"method": "POST", "path": "/", "headers": pairs}))
    assert caught.value.status == 400


def test_the_folder_has_room_for_twenty_full_requests(folder, monkeypatch):
    limits = Limits(max_files=2, max_mb=1, folder=folder)
    monkeypatch.setattr(type(folder), "size", lambda self: 19 * limits.request_bytes)
    assert refused(limits.check_room, limits.request_bytes) is None
    assert refused(limits.check_room, limits.request_bytes + 1) == 507


def test_an_address_may_send_some_uploads_at_the_same_time_and_no_more(folder, monkeypatch):
    monkeypatch.setattr("apps.demo.security.body.UPLOADS_PER_ADDRESS", 2)
    limits = Limits(max_files=2, max_mb=1, folder=folder)
    with limits.upload_from("a"), limits.upload_from("a"):
        assert refused(limits.upload_from("a").__enter__) == 429
        with limits.upload_from("b"):
            pass
    with limits.upload_from("a"):
        pass
    assert not limits._coming


def test_some_of_the_disk_is_left_to_others(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000_500))
    limits = Limits(max_files=2, max_mb=1, folder=folder)
    assert refused(limits.check_room, 501) == 507
    assert refused(limits.check_room, 500) is None


def test_a_refused_body_is_drained_up_to_a_limit():
    read = []

    async def endless():
        read.append(1)
        return {"type": "http.request", "body": b"x" * 1_000_000, "more_body": True}

    asyncio.run(Inbox(endless).drain())
    assert len(read) == 64


def test_a_body_that_is_complete_is_not_waited_for():
    async def go():
        inbox = Inbox(messages(b"ab"))
        await inbox.receive()
        await asyncio.wait_for(inbox.drain(), 1)
        return await inbox.receive()

    assert asyncio.run(go()) == {"type": "http.disconnect"}


@pytest.mark.parametrize("drain", [0.05, 1.0])
def test_a_body_that_stops_coming_is_given_up_and_an_answer_is_not(monkeypatch, drain):
    monkeypatch.setattr("apps.demo.security.body.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("apps.demo.security.body._DRAIN_SECONDS", drain)

    async def silent():
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    async def wait_after_the_body():
        inbox = Inbox(silent)
        inbox._complete = True
        return await inbox.receive()

    with pytest.raises(Refusal, match=r"Nothing came for 0\.05 s") as caught:
        asyncio.run(Inbox(silent).receive())
    assert caught.value.status == 408
    asyncio.run(Inbox(silent).drain())
    assert asyncio.run(wait_after_the_body()) == {"type": "http.disconnect"}


def test_a_sender_who_stops_sending_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr("apps.demo.security.body._DRAIN_SECONDS", 0.05)

    async def silent():
        await asyncio.sleep(60)

    asyncio.run(Inbox(silent).drain())


def test_a_file_at_the_public_address_is_this_demos_own(folder, own):
    public = PublicAddress("https://faces.example.org", "/ages")
    body = json.dumps({"path": own, "url": f"https://faces.example.org/ages/gradio_api/file={own}"}).encode()
    assert refused(check_files, body, head(), folder, public) is None
    assert refused(check_files, body, head(), folder) == 403
    for url in (
        "https://faces.example.org.evil/ages",
        "https://faces.example.org/other",
        "https://evil.example",
    ):
        body = json.dumps({"path": own, "url": f"{url}/gradio_api/file={own}"}).encode()
        assert refused(check_files, body, head(), folder, public) == 403
