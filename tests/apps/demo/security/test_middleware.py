"""The doorkeeper before a toy application, without a network: what passes, what is refused, and how."""

import asyncio
import json
from pathlib import Path

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.formparsers import MultiPartException

from apps.demo.security.middleware import script_hashes
from apps.demo.security.startup import app_kwargs
from apps.demo.startup import without_stubs
from apps.demo.uploads import UploadFolder

with without_stubs():
    from gradio.component_meta import create_or_modify_pyi
    from gradio.components import Button
    from gradio.route_utils import upload_fn

HOST = (b"host", b"127.0.0.1:7860")
FORM = (b"content-type", b"multipart/form-data; boundary=xx")
UPLOAD = "/gradio_api/upload"


@pytest.fixture
def folder(tmp_path):
    with UploadFolder(tmp_path) as folder:
        yield folder


@pytest.fixture
def app(folder):
    """An application that takes uploads as gradio does, behind a guard for 3 images of 1000 bytes."""
    app = FastAPI(**app_kwargs(folder, host="127.0.0.1", max_files=3, max_mb=0.001))
    app.state.seen = []

    @app.get("/")
    def page():
        return HTMLResponse("<script>let a = 1</script><script src='/assets/x.js'></script>")

    @app.get("/gradio_api/queue/data")
    def stream():
        return StreamingResponse(iter(["data: 1\n\n", "data: 2\n\n"]), media_type="text/event-stream")

    @app.get("/assets/{name}")
    def asset(name: str):
        return PlainTextResponse("x", headers={"Cache-Control": "max-age=60"})

    @app.get("/gradio_api/file={path:path}")
    def file(path: str):
        return HTMLResponse("<script>evil()</script>")

    @app.get("/gradio_api/call/predict/{event}")
    def answer(event: str):
        def lines():
            if event == "good":
                yield "event: complete\ndata: [1]\n\n"
                return
            yield "event: error\ndata: null\n\n"
            if event == "unknown":
                raise HTTPException(404)  # as gradio does

        return StreamingResponse(lines(), media_type="text/event-stream")

    @app.post("/login")
    async def login(request: Request):
        right = await request.body() == b"right"
        return JSONResponse({}, 200 if right else 400)

    @app.post("/gradio_api/queue/join")
    async def join(request: Request):
        app.state.seen.append(await request.json())
        return {"event_id": "1"}

    @app.post("/gradio_api/call/predict")
    def call():
        raise TypeError("Traceback of /home/ann/secret")

    @app.post(UPLOAD)
    async def upload(request: Request):
        try:
            files, _, _ = await upload_fn(request, folder.path, 10**9, None)
        except MultiPartException as error:
            return PlainTextResponse(error.message, 400)
        return JSONResponse(files)

    return app


def ask(app, method, path, headers=(), chunks=(b"",), gone=False, seconds=5.0, idle=False):
    """Send one request through ASGI; return (status, headers, body), the status None where nothing came.

    With `gone` the sender leaves before the body's end, with `idle` it stays and sends no more.
    """
    sent, waiting = [], list(chunks)

    async def receive():
        if waiting:
            more = gone or idle or bool(waiting[1:])
            return {"type": "http.request", "body": waiting.pop(0), "more_body": more}
        if not gone:
            await asyncio.sleep(3600)  # a client that waits for its answer
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [HOST, *headers], "root_path": "", "scheme": "http", "http_version": "1.1"}
    scope |= {"server": ("127.0.0.1", 7860), "client": ("127.0.0.1", 5), "asgi": {"version": "3.0"}}

    async def go():
        await asyncio.wait_for(app(scope, receive, send), seconds)

    asyncio.run(go())
    if not sent:
        return None, {}, b""
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, body


def part(content, name="a.png", field="files"):
    words = f'--xx\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return words.encode() + content + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--xx--\r\n"


def size_of(body):
    return (b"content-length", str(len(body)).encode())


def test_the_page_names_its_own_scripts_and_no_others(app):
    status, headers, body = ask(app, "GET", "/")
    assert status == 200
    assert b"let a = 1" in body
    policy = headers["content-security-policy"]
    assert script_hashes(b"<script>let a = 1</script>")[0] in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self' 'unsafe-eval' 'sha256-" in policy
    assert policy.count("'unsafe-inline'") == 1  # for styles
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


def test_what_never_changes_may_be_kept(app):
    assert ask(app, "GET", "/assets/x.js")[1]["cache-control"] == "max-age=60"


def test_streams_are_not_held_back(app):
    status, headers, body = ask(app, "GET", "/gradio_api/queue/data")
    assert (status, body) == (200, b"data: 1\n\ndata: 2\n\n")
    assert "content-security-policy" in headers


def test_a_file_is_handed_out_without_rights(app, folder):
    own = folder.new_file("page.html")
    own.write_text("x")
    status, headers, _ = ask(app, "GET", f"/gradio_api/file={own}")
    assert status == 200
    assert "script-src" not in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "sandbox" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/gradio_api/file=/etc/passwd", [], 403),
        ("/gradio_api/proxy=http://evil.example", [], 404),
        ("/", [(b"origin", b"https://evil.example")], 403),
        ("/", [HOST], 400),
    ],
)
def test_a_refusal_is_a_sentence_in_safe_dress(app, path, headers, status):
    got, dress, body = ask(app, "GET", path, headers)
    assert got == status
    assert json.loads(body)["detail"] == json.loads(body)["error"]
    assert json.loads(body)["detail"].endswith(".")
    assert dress["x-content-type-options"] == "nosniff"


def test_json_reaches_the_application_unchanged(app):
    status, _, body = ask(app, "POST", "/gradio_api/queue/join", [], [b'{"data": ', b'["a"]}'])
    assert (status, json.loads(body)) == (200, {"event_id": "1"})
    assert app.state.seen == [{"data": ["a"]}]


def test_json_that_names_a_file_does_not_reach_it(app):
    body = b'{"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}'
    assert ask(app, "POST", "/gradio_api/queue/join", [], [body])[0] == 403
    assert app.state.seen == []


def test_json_of_many_megabytes_does_not_reach_it(app):
    assert ask(app, "POST", "/gradio_api/queue/join", [], [b"[1" + b",1" * 500_000] * 3)[0] == 413
    assert ask(app, "POST", "/gradio_api/queue/join", [(b"content-length", b"9999999")])[0] == 413
    assert app.state.seen == []


def test_uploads_within_the_limits_arrive(app, folder):
    body = form(part(b"1" * 1000), part(b"2" * 1000, "<script>.png"), part(b"3", "../../x.png"))
    for chunks in ([body], [body[:50], body[50:700], body[700:]], [bytes([byte]) for byte in body]):
        status, _, answer = ask(app, "POST", UPLOAD, [FORM, size_of(body)], chunks)
        assert status == 200
        files = json.loads(answer)
        assert all(folder.owns(file) for file in files)
        assert [file.rsplit("/", 1)[1] for file in files] == ["a.png", "script.png", "x.png"]
        assert ask(app, "POST", UPLOAD, [FORM], chunks)[0] == 200  # also without a declared size


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([part(b"1" * 1001)], "0.001 MB at most"),
        ([part(b"1"), part(b"2" * 1500)], "0.001 MB at most"),
        ([part(bytes([48 + n])) for n in range(4)], "At most 3 images"),
        ([part(b"") for _ in range(500)], "At most 3 images"),
        ([part(b"1" * 40_000)], "0.001 MB"),
    ],
)
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("step", [37, 4096, 10**6])
def test_uploads_beyond_the_limits_are_refused_and_leave_nothing(app, folder, parts, words, declared, step):
    body = form(*parts)
    chunks = [body[start : start + step] for start in range(0, len(body), step)]
    status, headers, answer = ask(app, "POST", UPLOAD, [FORM, *([size_of(body)] * declared)], chunks)
    assert status == 413
    assert words in answer.decode()
    assert headers["content-type"].startswith("text/plain")
    assert [file for file in folder.path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"application/json", b"{}"),
        (b"multipart/form-data", b"--xx\r\n"),
        (b"multipart/form-data; boundary=" + b"x" * 300, b"--xx\r\n"),
        (FORM[1], b"no form at all"),
        (FORM[1], form(part(b"1", field="else"))),
        (FORM[1], b'--xx\r\nContent-Disposition: form-data; name="files"\r\n\r\ntext\r\n--xx--\r\n'),
    ],
)
def test_an_upload_that_is_no_form_of_pictures(app, folder, kind, body):
    assert ask(app, "POST", UPLOAD, [(b"content-type", kind)], [body])[0] == 400
    assert [file for file in folder.path.rglob("*") if file.is_file()] == []


def test_a_sender_who_leaves_in_the_middle_leaves_nothing(app, folder):
    status, _, _ = ask(app, "POST", UPLOAD, [FORM], [part(b"1" * 900)[:500]], gone=True)
    assert status is None
    assert list(folder.path.iterdir()) == []
    assert ask(app, "POST", "/gradio_api/queue/join", [], [b'{"data"'], gone=True)[0] is None


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        (".png", "file.png"),
        ("._IMG.jpg", "file._IMG.jpg"),
        ("<.hidden.jpg", "file.hidden.jpg"),
        ("a/.b.jpg", "file.b.jpg"),
        ("..", "file"),
        ("a.b.jpg", "a.b.jpg"),
        ("\u65e5.jpg", "\u65e5.jpg"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_a_name_that_begins_with_a_dot_gets_a_front(app, folder, name, stored, step):
    body = form(
        part(b"0" * 50, "first.png"),
        part(b"1" * 900, name),
        part(b"2", name),
    )
    chunks = [body[start : start + step] for start in range(0, len(body), step)]
    status, _, answer = ask(app, "POST", UPLOAD, [FORM, size_of(body)], chunks)
    assert status == 200
    files = [Path(file) for file in json.loads(answer)]
    assert [file.name for file in files] == ["first.png", stored, stored]
    assert [file.read_bytes() for file in files] == [b"0" * 50, b"1" * 900, b"2"]


def test_headers_without_end_are_refused(app, folder):
    start = b'--xx\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
    chunks = [start, *[b"X-%d: %s\r\n" % (number, b"1" * 3000) for number in range(4)], b"\r\n"]
    status, _, answer = ask(app, "POST", UPLOAD, [FORM], chunks)
    assert status == 400
    assert b"headers are too long" in answer


@pytest.mark.parametrize("path", [UPLOAD, "/gradio_api/queue/join", "/login"])
def test_a_sender_who_falls_silent_is_told_and_leaves_nothing(app, folder, monkeypatch, path):
    monkeypatch.setattr("apps.demo.security.body.IDLE_SECONDS", 0.1)
    monkeypatch.setattr("apps.demo.security.body.Inbox.drain", None)  # what else would come is not waited for
    body = part(b"1" * 900)[:500]
    status, headers, answer = ask(app, "POST", path, [FORM], [body], idle=True, seconds=2.0)
    assert status == 408
    assert b"Nothing came" in answer
    assert headers["connection"] == "close"
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "most", "status"), [("127.0.0.1", 31, 200), ("127.0.0.1", 30, 429), ("127.0.0.9", 30, 200)]
)
def test_what_is_only_announced_takes_no_room_from_others(app, monkeypatch, address, most, status):
    """Thirty uploads announce as much as one may send, and send nothing; one from 127.0.0.1 is served."""
    monkeypatch.setattr("apps.demo.security.body.UPLOADS_PER_ADDRESS", most)
    size = 3 * 5000 + 4000
    results = []

    async def go():
        started = []

        async def silent():
            started.append(1)
            await asyncio.sleep(3600)

        async def forget(message):
            raise AssertionError(message)

        scope = {"type": "http", "method": "POST", "path": UPLOAD, "raw_path": b"", "query_string": b""}
        scope |= {"headers": [HOST, FORM, (b"content-length", str(size).encode())], "root_path": ""}
        scope |= {"scheme": "http", "client": (address, 5), "server": ("127.0.0.1", 7860)}
        idle = [asyncio.create_task(app(dict(scope), silent, forget)) for _ in range(30)]
        while len(started) < 30:
            await asyncio.sleep(0.01)
        results.append(await asyncio.to_thread(ask, app, "POST", UPLOAD, [FORM], [form(part(b"1"))]))
        for task in idle:
            task.cancel()
        await asyncio.gather(*idle, return_exceptions=True)

    asyncio.run(go())
    assert results[0][0] == status


def test_a_folder_that_fills_up_meanwhile_ends_an_upload(app, folder, monkeypatch):
    monkeypatch.setattr("apps.demo.security.upload._ROOM_STEP", 100)
    sizes = iter([0, 10**9, 10**9, 10**9])
    monkeypatch.setattr(type(folder), "size", lambda self: next(sizes))
    body = form(part(b"1" * 900))
    chunks = [body[:50], body[50:500], body[500:]]
    assert ask(app, "POST", UPLOAD, [FORM], chunks)[0] == 507
    assert list(folder.path.iterdir()) == []


def test_an_answer_that_nobody_asked_for_is_told_in_words(app, capsys):
    for path in ("/gradio_api/call/predict/unknown", "/gradio_api/call/predict/unknown"):
        status, _, body = ask(app, "GET", path)
        assert status == 404
        assert "no answer under this id" in json.loads(body)["detail"]
    assert capsys.readouterr().out == ""
    assert ask(app, "GET", "/gradio_api/call/predict/good")[::2] == (200, b"event: complete\ndata: [1]\n\n")
    assert ask(app, "GET", "/gradio_api/call/predict/bad")[::2] == (200, b"event: error\ndata: null\n\n")


def test_passwords_cannot_be_guessed_quickly(app):
    found = [ask(app, "POST", "/login", [], [b"wrong"])[0] for _ in range(12)]
    assert found == [400] * 10 + [429] * 2
    assert ask(app, "POST", "/login", [], [b"right"])[0] == 429


def test_logins_that_succeed_are_not_counted(app):
    assert {ask(app, "POST", "/login", [], [b"right"])[0] for _ in range(30)} == {200}


def test_a_full_folder_is_said(app, folder, monkeypatch):
    monkeypatch.setattr(type(folder), "size", lambda self: 10**9)
    status, _, answer = ask(app, "POST", UPLOAD, [FORM], [form(part(b"1"))])
    assert status == 507
    assert b"try again in some minutes" in answer


def test_room_is_given_back_after_every_upload(app):
    body = form(part(b"1" * 1000))
    for _ in range(100):  # a hundred requests of declared 15 kB each would fill it otherwise
        assert ask(app, "POST", UPLOAD, [FORM], [body])[0] == 200
        assert ask(app, "POST", UPLOAD, [FORM], [form(part(b"1" * 1001))])[0] == 413


def test_a_call_that_falls_through_is_answered_in_words_and_told_in_one_line(app, capsys):
    status, headers, answer = ask(app, "POST", "/gradio_api/call/predict", [], [b"{}"])
    assert status == 500
    assert b"secret" not in answer
    assert "content-security-policy" in headers
    said = capsys.readouterr().out
    assert "POST '/gradio_api/call/predict' failed: TypeError" in said
    assert len(said.splitlines()) == 1


def test_web_sockets_are_closed(app):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/queue/join", "headers": [HOST], "query_string": b""}
    asyncio.run(app(scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_known_page_gives_the_hash_that_browsers_compute():
    known = "'sha256-qVpDBgj7bpq5hMAcGp3AOc79J3Y1Z4HvySTwKrWDoy4='"  # openssl dgst -sha256 -binary | base64
    assert script_hashes(b"<SCRIPT type=module>a()</SCRIPT><script>a()</script>") == [known]
    assert script_hashes(b"<script src=x>a()</script>") == []


def test_gradio_is_imported_without_writing_stubs(monkeypatch):
    def read(file: Path, *given: object, **named: object) -> str:
        raise AssertionError(file.name)

    monkeypatch.setattr(Path, "read_text", read)
    with without_stubs():
        create_or_modify_pyi(Button, "Button", [])
    with pytest.raises(AssertionError, match=r"button\.py"):
        create_or_modify_pyi(Button, "Button", [])
