import pytest

from apps.demo.security.rules import (
    Head,
    PublicAddress,
    check_host,
    check_origin,
    check_route,
    known_names,
    read_public_address,
    without_dropped,
)
from finetune.errors import UsageError
from tests.apps.demo.refusals import refused


def head(method="GET", path="/", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Head.of({"method": method, "path": path, "headers": pairs})


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST", "localhost:8080"]
)
def test_its_own_names(host):
    assert refused(check_host, head(host=host), known_names("127.0.0.1")) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.1.5",
        "",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.1:7860:80",
        "127.0.0.1:x",
        "127.0.0.1 x",
    ],
)
def test_a_foreign_name_as_dns_rebinding_would_use(host):
    assert refused(check_host, head(host=host), known_names("127.0.0.1")) == 421


def test_a_name_must_be_given_and_given_once():
    assert refused(check_host, head(), known_names("127.0.0.1")) == 421
    pairs = [(b"host", b"localhost"), (b"Host", b"evil.example")]
    assert (
        refused(check_host, Head.of({"method": "GET", "path": "/", "headers": pairs}), {"localhost"}) == 400
    )


def test_a_demo_on_every_address_answers_to_bare_addresses_but_not_to_names():
    names = known_names("0.0.0.0")
    assert refused(check_host, head(host="192.168.1.5:7860"), names) is None
    assert refused(check_host, head(host="[fe80::1]:7860"), names) is None
    assert refused(check_host, head(host="evil.example"), names) == 421


def test_the_host_option_gives_a_name():
    assert refused(check_host, head(host="192.168.1.5:7860"), known_names("192.168.1.5")) is None
    assert refused(check_host, head(host="faces.lab"), known_names("faces.lab")) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:7860", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"origin": "HTTP://127.0.0.1:7860".lower()},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_its_own_page_and_programs_may_ask(method, headers):
    assert (
        refused(check_origin, head(method, "/gradio_api/queue/join", host="127.0.0.1:7860", **headers))
        is None
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:7860"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:7860.evil.example"},
        {"origin": "file://127.0.0.1:7860"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "http://127.0.0.1:7860", "sec_fetch_site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_page_may_neither_send_nor_read(method, headers):
    assert (
        refused(check_origin, head(method, "/gradio_api/queue/join", host="127.0.0.1:7860", **headers)) == 403
    )


def test_a_link_from_elsewhere_opens_the_page_and_nothing_else():
    link = {"host": "localhost", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert refused(check_origin, head("GET", "/", **link)) is None
    assert refused(check_origin, head("GET", "/config", **link)) == 403
    assert refused(check_origin, head("POST", "/", **link)) == 403


def test_default_ports_are_the_same_place_with_and_without_their_number():
    assert refused(check_origin, head(host="faces.lab", origin="https://faces.lab")) is None
    assert refused(check_origin, head(host="faces.lab:80", origin="http://faces.lab")) is None
    assert refused(check_origin, head(host="faces.lab:8080", origin="http://faces.lab")) == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", path)
        for path in ("/", "/config", "/config/", "/theme.css", "/assets/index.js", "/static/img/a.svg")
    ]
    + [
        ("GET", f"/gradio_api/{path}")
        for path in ("info", "queue/data", "call/predict/0a1b", "call/v2/predict/0a")
    ]
    + [("GET", f"/gradio_api/{path}") for path in ("heartbeat/ab12", "upload_progress", "file=/tmp/x/y.png")]
    + [
        ("POST", f"/gradio_api/{path}")
        for path in ("upload", "queue/join", "call/predict", "call/predict/", "cancel")
    ]
    + [("POST", "/login"), ("HEAD", "/"), ("GET", "/logout")],
)
def test_what_the_demo_needs_is_open(method, path):
    assert refused(check_route, head(method, path)) is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/gradio_api/{path}")
        for path in ("proxy=https://evil.hf.space/", "deep_link", "runs", "token")
    ]
    + [
        ("GET", f"/gradio_api/{path}")
        for path in ("vibe-code", "custom_component/1/client/x/y.js", "dev/reload")
    ]
    + [
        ("GET", f"/gradio_api/{path}")
        for path in ("stream/a/b/1/playlist-file", "file/etc/passwd", "mcp/schema")
    ]
    + [("GET", f"/gradio_api/{path}") for path in ("profiling/traces", "run-history/records", "openapi.json")]
    + [
        ("POST", f"/gradio_api/{path}")
        for path in ("component_server", "process_recording", "stream/1", "vibe-edit")
    ]
    + [("POST", f"/gradio_api/{path}") for path in ("api/predict", "run-history/connect", "call/a/b", "mcp")]
    + [
        ("GET", path)
        for path in ("/monitoring", "/monitoring/summary", "/docs", "/openapi.json", "/pwa_icon/9")
    ]
    + [
        ("GET", path)
        for path in ("//config", "/assets", "/gradio_api", "/gradio_api/queue/join", "/config/x", "")
    ]
    + [("PUT", "/"), ("DELETE", "/"), ("OPTIONS", "/"), ("get", "/"), ("POST", "/")],
)
def test_everything_else_is_closed(method, path):
    assert refused(check_route, head(method, path)) == 404


def test_headers_that_choose_the_pages_addresses_are_dropped():
    pairs = [
        (b"host", b"localhost"),
        (b"X-Forwarded-Host", b"evil.example"),
        (b"x-gradio-server", b"http://evil"),
    ]
    assert without_dropped({"headers": pairs})["headers"] == [(b"host", b"localhost")]


PUBLIC = PublicAddress("https://faces.example.org", "/ages")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://faces.example.org", ("https://faces.example.org", "")),
        (" HTTPS://Faces.Example.org:443/ ", ("https://faces.example.org", "")),
        ("http://lab:8080/ages/demo/", ("http://lab:8080", "/ages/demo")),
        ("http://[fe80::1]:80/a", ("http://[fe80::1]", "/a")),
    ],
)
def test_a_public_address_has_an_origin_and_a_prefix(url, parts):
    assert read_public_address(url) == PublicAddress(*parts)


@pytest.mark.parametrize(
    "url",
    [
        *("faces.example.org", "ftp://faces", "https://", "https://a b", "https://me@faces", "https://a:x"),
        *("https://faces/?x=1", "https://faces/#x", "https://faces//x", "https://faces/a/../b%2f"),
        'https://faces/"><script>',
    ],
)
def test_what_is_no_public_address_is_refused(url):
    with pytest.raises(UsageError, match=r"--public-url must be an address such as https://"):
        read_public_address(url)


def test_the_public_name_is_answered_and_no_other():
    names = known_names("127.0.0.1", PUBLIC)
    assert refused(check_host, head(host="faces.example.org"), names) is None
    assert refused(check_host, head(host="127.0.0.1:7860"), names) is None
    assert refused(check_host, head(host="evil.example"), names) == 421


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "faces.example.org"])
def test_the_page_at_the_public_address_is_its_own_whatever_name_is_passed_on(host):
    for origin in ("https://faces.example.org", "https://faces.example.org:443", "https://FACES.example.org"):
        assert refused(check_origin, head("POST", "/", host=host, origin=origin), PUBLIC) is None
    for origin in ("https://evil.example", "https://faces.example.org.evil.example", "null", "https://ages"):
        assert refused(check_origin, head("POST", "/", host=host, origin=origin), PUBLIC) == 403
    assert refused(check_origin, head(host="127.0.0.1", origin="http://faces.example.org"), PUBLIC) == 403


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/ages", "/"),
        ("/ages/", "/"),
        ("/ages/config", "/config"),
        ("/config", "/config"),
        ("/agesx", "/agesx"),
    ],
)
def test_a_prefix_that_the_server_in_front_left_is_taken_off(path, inside):
    scope = {"headers": [], "path": path, "raw_path": path.encode()}
    kept = without_dropped(scope, PUBLIC)
    assert (kept["path"], kept["raw_path"]) == (inside, inside.encode())
    assert without_dropped(scope)["path"] == path
