"""The whole demo against ill will: a real process, a real port, raw HTTP (faults 22, 23 and 36)."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import quote

import pytest

from tests.apps.live_demo import META, blank_png, events, live_demo, picture, unused_port
from tests.apps.tiny_onnx import tiny_facts, write_tiny

WIDE = {"GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SERVER_NAME": "0.0.0.0"}
UPLOAD = "/gradio_api/upload"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("model") / "ce.onnx", tiny_facts(title="ce"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory, model):
    """One demo with the limits it has by itself (16 images, 10 MB each), in a hostile environment."""
    with live_demo(tmp_path_factory.mktemp("tmp"), [model], "--examples", str(model.parent), **WIDE) as demo:
        yield demo
        assert "Exception in ASGI application" not in demo.said


@pytest.fixture
def uploaded(demo):
    """The path of an image that is really there."""
    return demo.upload([("a.png", picture(1))]).json[0]


def is_alive(demo):
    """Return whether the demo still answers an image."""
    return demo.predict([("fine.png", picture(3))])["pictures"] != []


def test_the_environment_does_not_open_the_demo(demo, tmp_path):
    assert "ignores GRADIO_ALLOWED_PATHS, GRADIO_SERVER_NAME, GRADIO_SHARE" in demo.said
    assert "public URL" not in demo.said
    other = tmp_path / "secret.txt"
    other.write_text("secret words")
    assert demo.ask("GET", f"/gradio_api/file={other}").status == 403
    with socket.socket() as probe:  # every address of this machine but the loopback one is closed
        probe.settimeout(2)
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            assert probe.connect_ex((own, demo.port)) != 0


def test_a_hundred_megapixels_are_refused_at_once_without_memory(demo):
    bomb = blank_png(10_000, 10_000)
    assert len(bomb) < 1_000_000
    assert is_alive(demo)
    path = demo.upload([("large.png", bomb)]).json[0]
    demo.forget_peak()
    before, times = demo.memory("VmRSS"), []
    for _ in range(5):
        start = time.perf_counter()
        answer = demo.result(demo.join([path]).json["event_id"])
        times.append(time.perf_counter() - start)
        assert answer["pictures"] == []
        assert "100.0 megapixels, the limit is 50" in answer["errors"][0]["reason"]
    assert min(times) < 0.2
    assert demo.memory("VmHWM") - before < 20_000_000  # its pixels alone are 100 MB


@pytest.mark.parametrize("chunked", [False, True])
def test_eleven_megabytes_are_refused_in_words_and_leave_nothing(demo, chunked):
    before = len(demo.files())
    body = [b'--xx\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n']
    body += [b"x" * 1_000_000] * 11 + [b"\r\n--xx--\r\n"]
    sent = iter(body) if chunked else b"".join(body)
    reply = demo.ask("POST", UPLOAD, sent, Content_Type="multipart/form-data; boundary=xx")
    assert reply.status == 413
    assert reply.text == "An image may have 10 MB at most; make it smaller and try again."
    assert len(demo.files()) == before


def test_five_hundred_pictures_in_one_request_are_refused_in_words_and_leave_nothing(demo):
    before = len(demo.files())
    reply = demo.upload([(f"{number}.png", picture(number)) for number in range(500)])
    assert reply.status == 413
    assert reply.text == "At most 16 images at once, of 10 MB each; send fewer at a time."
    assert len(demo.files()) == before


@pytest.mark.parametrize("more", [{"Expect": "100-continue"}, {}])
def test_a_request_that_announces_terabytes_is_refused_before_it_sends_them(demo, more):
    start = time.perf_counter()
    kind = "multipart/form-data; boundary=xx"
    reply = demo.ask("POST", UPLOAD, b"", Content_Type=kind, Content_Length="999999999999", **more)
    assert reply.status == 413
    assert reply.headers["connection"] == "close"
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("<script>alert(1)</script>.png", None),
        ("<img src=x onerror=alert(1)>.png", None),
        ("../../../../tmp/evil.png", "evil.png"),
        ("/etc/passwd", "passwd"),
        ("..\\\\..\\\\evil.png", None),
        ("a" * 251 + ".png", "a" * 196 + ".png"),
        ("\u00e9" * 125 + ".png", None),
        ("-rf *.png", None),
        ("..", None),
        (".", None),
        (".bashrc", None),
        ("CON.png", None),
        ("a\x00b.png", None),
    ],
)
def test_a_hostile_name_stays_in_the_folder_and_comes_back_escaped(demo, name, stored):
    reply = demo.upload([(name, picture(2))])
    assert reply.status in (200, 400), reply.text
    if reply.status == 200:
        path = reply.json[0]
        assert demo.folder.resolve() in demo.folder.joinpath(path).resolve().parents
        assert stored is None or path.endswith(f"/{stored}")
        answer = demo.result(demo.join([path]).json["event_id"])
        assert len(answer["pictures"]) == 1
        html = demo.press(path, ["ce"])[0]
        assert "<script>alert" not in html
        assert "<img src=x" not in html
    assert not (demo.home / "evil.png").exists()


@pytest.mark.parametrize(
    "route", ["call/predict", "call/v2/predict", "queue/join", "run/predict", "call/classify", "api/predict"]
)
@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc/passwd", "meta": META},
        {"path": "/etc/passwd"},
        {"path": "../../../../etc/passwd", "meta": META},
        {"path": "/proc/self/environ", "meta": META},
        {"path": "http://127.0.0.1:1/x.png", "meta": META},
        {"path": "{uploaded}", "url": "http://169.254.169.254/latest/meta-data", "meta": META},
        {"path": "{folder}/../secret.txt", "meta": META},
        {"path": "{folder}/link.png", "meta": META},
        {"path": "{folder}/hard.png", "meta": META},
    ],
)
def test_naming_a_file_of_the_server_is_refused(demo, uploaded, route, file):
    secret = demo.home / "secret.txt"
    secret.write_text("secret words")
    for link, make in ((demo.folder / "link.png", os.symlink), (demo.folder / "hard.png", os.link)):
        if not link.exists():
            make(secret, link)
    places = {"folder": str(demo.folder), "uploaded": uploaded}
    file = {key: value.format(**places) if isinstance(value, str) else value for key, value in file.items()}
    call = {"data": [[file], None, True, None], "fn_index": 0, "session_hash": "abc", "files": [file]}
    reply = demo.post(f"/gradio_api/{route}", call)
    assert reply.status == (404 if route == "api/predict" else 403)
    assert b"root:" not in reply.body
    assert b"secret" not in reply.body


def test_a_bare_path_is_no_upload_either(demo, uploaded):
    for path in ("/etc/passwd", str(demo.home / "secret.txt"), f"{demo.folder}/../secret.txt"):
        joined = demo.post("/gradio_api/call/predict", {"data": [[path], None, True, None]})
        if joined.status == 200:
            reply = demo.ask("GET", f"/gradio_api/call/predict/{joined.json['event_id']}")
            assert '"pictures": []' in reply.text
            assert "no image uploaded here" in reply.text


def test_no_file_but_uploads_and_results_is_handed_out(demo, uploaded):
    paths = ["/etc/passwd", "../../../../etc/passwd", "/proc/self/environ", f"{demo.folder}/../secret.txt"]
    paths += [f"{uploaded}/../../../../../etc/passwd", "file:///etc/passwd", str(demo.folder), __file__, "."]
    paths += [
        f"http://127.0.0.1:{demo.port}/config",
        f"{demo.folder}/link.png",
        "apps/demo/page.py",
        "\\etc\\passwd",
    ]
    for path in paths:
        for written in (quote(path), quote(path, safe=""), quote(quote(path, safe=""), safe=""), path):
            for route in (
                "/gradio_api/file=",
                "/gradio_api/file/",
                "/gradio_api//file=",
                "/file=",
                "/static/",
                "/assets/",
            ):
                reply = demo.ask("GET", f"{route}{written}")
                assert reply.status in (400, 403, 404), (route, written)
                assert b"root:" not in reply.body
    assert demo.ask("GET", f"/gradio_api/file={quote(uploaded)}").body == picture(1)
    assert demo.ask("GET", f"/gradio_api/file={quote(uploaded)}", Range="bytes=0-3").status in (200, 206)


@pytest.mark.parametrize(
    "path",
    [
        "proxy=https://evil.hf.space/x",
        "deep_link?session_hash=a",
        "runs",
        "token",
        "openapi.json",
        "dev/reload",
    ],
)
def test_what_the_demo_does_not_need_is_closed(demo, path):
    assert demo.ask("GET", f"/gradio_api/{path}").status == 404


def test_other_ways_in_are_closed(demo):
    body = {"data": [], "component_id": 1, "fn_name": "ls", "session_hash": "a"}
    assert demo.post("/gradio_api/component_server", body).status == 404
    assert demo.ask("GET", "/monitoring").status == 404
    assert demo.ask("GET", "/monitoring/summary").status == 404
    assert demo.ask("GET", "/pwa_icon/100000").status == 404
    assert (
        demo.post("/gradio_api/run/predict", {"data": [[], None, True, None]}).status == 404
    )  # past the queue


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
def test_another_web_page_can_neither_send_nor_read(demo, headers):
    before = len(demo.files())
    for reply in (
        demo.upload([("a.png", picture(9))], **headers),
        demo.post("/gradio_api/call/predict", {"data": [[], None, True, None]}, **headers),
        demo.ask("GET", "/config", **headers),
        demo.ask("GET", "/gradio_api/queue/data?session_hash=abc", **headers),
    ):
        assert reply.status in (403, 421)
        assert b"components" not in reply.body  # gradio may allow it to be read: it is a refusal, no more
    assert len(demo.files()) == before


def test_every_answer_is_safely_dressed(demo, uploaded):
    page = demo.ask("GET", "/")
    assert page.status == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http:" not in policy
    assert "https:" not in policy
    picture_policy = demo.ask("GET", f"/gradio_api/file={quote(uploaded)}").headers
    assert "sandbox" in picture_policy["content-security-policy"]
    for path in (
        "/",
        "/config",
        "/theme.css",
        "/gradio_api/info",
        f"/gradio_api/file={quote(uploaded)}",
        "/none",
    ):
        headers = demo.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    assert picture_policy["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"data": null}',
        b'{"data": "x"}',
        b"1" * 3_000_000,
        b'{"data": [[1, 2], {"a": 1}, "x", {}], "fn_index": 99999, "session_hash": {}}',
        b'{"data": [[[[]]]]}',
        b'{"data": [[], "x", 1, 2, 3, 4, 5]}',
        b'{"data": [], "session_hash": "' + b"y" * 100_000 + b'"}',
    ],
)
def test_nonsense_is_refused_or_answered_and_nothing_falls_over(demo, body):
    for route in (
        "call/predict",
        "queue/join",
        "run/predict",
        "cancel",
        "reset",
        "call/v2/predict",
        "call/none",
    ):
        reply = demo.post(f"/gradio_api/{route}", body)
        assert b"Traceback" not in reply.body
        assert b"site-packages" not in reply.body
    assert is_alive(demo)


def test_raw_nonsense_on_the_port(demo):
    requests = [b"\x00" * 1000, b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"]
    requests += [
        b"GET /\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    ]
    requests += [b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\nabc"]
    for request in requests:
        with socket.create_connection(("127.0.0.1", demo.port), timeout=5) as connection:
            connection.sendall(request)
            connection.settimeout(1)
            try:
                assert b"200 OK" not in connection.recv(1000)
            except (TimeoutError, ConnectionResetError):
                continue
    assert is_alive(demo)


def run_demo(model, *options, **environment):
    """Run the program and return its exit code, and what it printed to both streams."""
    command = [sys.executable, "-m", "apps.cli", "demo", str(model), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout + done.stderr


def test_a_port_in_use_is_said_and_how_to_take_the_next_one(demo, model):
    code, words = run_demo(model, "--port", str(demo.port), "--check")
    assert code == 2
    assert f"port {demo.port} on 127.0.0.1 is in use" in words
    assert "--auto-port" in words


def test_the_world_is_let_in_only_with_passwords(model):
    code, words = run_demo(model, "--host", "0.0.0.0", "--port", str(unused_port()))
    assert code == 2
    assert "--auth" in words


FORM = {"Content_Type": "application/x-www-form-urlencoded"}


def sign_in(demo):
    """Check that nothing is answered without a password; return the cookie that one gives."""
    assert demo.upload([("a.png", picture(1))]).status == 401
    assert demo.post("/gradio_api/call/predict", {"data": [[], None, True, None]}).status == 401
    assert demo.ask("GET", "/gradio_api/info").status == 401
    assert b'"auth_required":true' in demo.ask("GET", "/").body.replace(b" ", b"")
    assert demo.ask("POST", "/login", b"username=ann&password=one", **FORM).status == 400
    assert demo.ask("POST", "/login", b"username=ann&password=" + b"x" * 9000, **FORM).status == 413
    entered = demo.ask("POST", "/login", b"username=ann&password=one%3Atwo", **FORM)
    assert entered.status == 200
    return entered.headers["set-cookie"].split(";")[0]


@pytest.mark.alone
@pytest.mark.usefixtures("as_in_a_terminal")
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.exhaustive)]
)
def test_passwords_and_an_end_that_is_quick_and_leaves_nothing_whatever_is_under_way(model, tmp_path, number):
    home, people = tmp_path / "home", tmp_path / "people.txt"
    home.mkdir()
    people.write_text("ann:one:two\n")
    people.chmod(0o600)
    with live_demo(home, [model], "--auth", str(people)) as demo:
        cookie = sign_in(demo)
        path = demo.upload([("._IMG.png", picture(1))], Cookie=cookie).json[0]
        assert demo.ask("GET", f"/gradio_api/file={quote(path)}").status == 401
        assert demo.ask("GET", f"/gradio_api/file={quote(path)}", Cookie=cookie).status == 200
        call = {"data": [[{"path": path, "meta": META}], None, True, None]}
        event = demo.post("/gradio_api/call/predict", call, Cookie=cookie).json["event_id"]
        answer = demo.ask("GET", f"/gradio_api/call/predict/{event}", Cookie=cookie)
        assert events(answer.text)["complete"][0]["errors"] == []
        assert len(demo.files()) == 1
        folder = demo.folder
        with socket.create_connection(("127.0.0.1", demo.port)) as silent:
            start = (
                f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\nCookie: {cookie}\r\n"
            )
            start += (
                "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; "
            )
            silent.sendall(start.encode() + b'name="files"; filename="y.png"\r\n\r\n' + b"x" * 50_000)
            deadline = time.monotonic() + 10
            while len(demo.files()) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert len(demo.files()) == 2
            begun = time.monotonic()
            demo.process.send_signal(number)
            assert demo.process.wait(20) == 0
            assert time.monotonic() - begun < 4  # gradio alone takes 5 s and more
    assert not folder.exists()
    assert [file.name for file in home.iterdir()] == [demo.log.name]
    assert "Traceback" not in demo.said
    assert "ERROR" not in demo.said


def test_an_unknown_answer_is_said_and_leaves_no_trace(demo):
    before = demo.said
    reply = demo.ask("GET", "/gradio_api/call/predict/0123456789abcdef")
    assert reply.status == 404
    assert "no answer under this id" in reply.json["detail"]
    assert demo.said == before


@pytest.mark.exhaustive  # five seconds each
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_the_next_port_when_asked_the_new_kind_of_address_and_a_wrong_certificate_file(model, tmp_path, host):
    new_kind = socket.has_ipv6
    where = ["--host", host] if new_kind else []
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6)
        if new_kind
        else (socket.create_server(("127.0.0.1", 0))) as taken
    ):
        port = taken.getsockname()[1]
        options = [*where, "--port", str(port), "--auto-port", "--check"]
        code, words = run_demo(model, *options, SSL_CERT_FILE="/none", TMPDIR=str(tmp_path))
    assert code == 0, words
    [shown] = re.findall(r"checked: http://(.+):(\d+)/", words)
    assert shown[0] == ("[::1]" if new_kind else "127.0.0.1")
    assert int(shown[1]) > port
    assert "ignores" in words
    assert "SSL_CERT_FILE" in words
    assert list(tmp_path.iterdir()) == []


def test_events_are_read_by_name():
    assert events("event: complete\ndata: [1]\n\nevent: heartbeat\ndata: null\n") == {
        "complete": [1],
        "heartbeat": None,
    }


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(demo, number):
    body = f'{{"data": [[], null, {number}, null]}}'.encode()
    answer = demo.ask("POST", "/gradio_api/call/predict", body, content_type="application/json")
    assert answer.status == 400
    assert "JSON" in answer.json["detail"]
