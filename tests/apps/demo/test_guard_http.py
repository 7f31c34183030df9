"""The doorkeeper before a toy application, without a network: what passes, what is refused, and how."""

import asyncio
import json

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from gradio.route_utils import upload_fn
from starlette.formparsers import MultiPartException

from apps.demo.guard import app_kwargs
from apps.demo.guard_http import script_hashes
from apps.demo.uploads import UploadFolder

HOST = (b"host", b"127.0.0.1:7860")
FORM = (b"content-type", b"multipart/form-data; boundary=xx")
UPLOAD = "/gradio_api/upload"


@pytest.fixture
def folder(tmp_path):
    with UploadFolder(tmp_path) as folder:
        yield folder


@pytest.fixture
def app(folder):
    """An application that takes uploads as gradio does, behind a guard for 3 pictures of 1000 bytes."""
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


def ask(app, method, path, headers=(), chunks=(b"",), gone=False, seconds=5.0):
    """Send one request through ASGI; return (status, headers, body), the status None where nothing came."""
    sent, waiting = [], list(chunks)

    async def receive():
        if waiting:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": gone or bool(waiting)}
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
        ([part(bytes([48 + n])) for n in range(4)], "At most 3 pictures"),
        ([part(b"") for _ in range(500)], "At most 3 pictures"),
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
