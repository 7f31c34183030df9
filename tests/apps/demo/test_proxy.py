"""The demo behind a real nginx with a certificate: a public name, with and without a path, in a browser."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.apps.demo.visit import ARGUMENTS, CHROMIUM
from tests.apps.live_demo import LiveDemo, form, live_demo, picture, unused_port
from tests.apps.tiny_onnx import tiny_facts, write_tiny

pytestmark = pytest.mark.exhaustive

NAME = "faces.example.org"
SITE = """
daemon off; pid {home}/pid; error_log {home}/error.log;
events {{}}
http {{
    access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxied;
    fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem;
        client_max_body_size 200m;
        location {place} {{
            proxy_pass http://127.0.0.1:{demo}{target};
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_buffering off;
            {host}
        }}
    }}
}}
"""
# How sites are set up: the name rewritten or kept, the path taken off or left.
WAYS = {
    "name rewritten, path taken off": ("/ages/", "/", ""),
    "name kept, path left": ("/ages/", "", "proxy_set_header Host $http_host;"),
    "no path": ("/", "", "proxy_set_header Host $http_host;"),
}


@dataclass
class Site:
    """nginx in front of a demo."""

    port: int
    prefix: str

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}{self.prefix}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Send a request as a browser that found the public name; return status and body."""
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, self.prefix + path, body, {"Host": f"{NAME}:{self.port}", **named})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def nginx(home: Path, demo: LiveDemo, port: int, way: str) -> Iterator[Site]:
    place, target, host = WAYS[way]
    home.mkdir()
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={NAME}",
            ),
            *("-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    text = SITE.format(home=home, port=port, demo=demo.port, place=place, target=target, host=host)
    (home / "nginx.conf").write_text(text, encoding="utf-8")
    site = Site(port, place.rstrip("/"))
    with subprocess.Popen(
        [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(home), "-c", str(home / "nginx.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                site.ask("GET", "/config")
                break
            except OSError:
                assert process.poll() is None, (home / "error.log").read_text(encoding="utf-8")
                time.sleep(0.05)
        yield site
        process.terminate()


@pytest.fixture(params=WAYS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if not Path("/usr/sbin/nginx").is_file() or shutil.which("openssl") is None:
        pytest.skip("needs Debian's nginx at /usr/sbin/nginx, and openssl")
    model, port = write_tiny(tmp_path / "CE.onnx", tiny_facts(title="CE")), unused_port()
    prefix = WAYS[request.param][0].rstrip("/")
    public = f"https://{NAME}:{port}{prefix}"
    with live_demo(tmp_path, [model], "--cropped", "--public_url", public) as demo:
        assert f"open {public}/ in a browser" in demo.said
        assert f"no password is asked here (--auth): whoever the server at {public} lets in" in demo.said
        with nginx(tmp_path / "nginx", demo, port, request.param) as running:
            yield running


def test_the_page_and_its_calls_work_at_the_public_address_and_at_no_other(site: Site) -> None:
    status, config = site.ask("GET", "/config")
    assert status == 200
    assert json.loads(config)["root"] == site.url
    body, kind = form([("a.png", picture(1))])
    origin = f"https://{NAME}:{site.port}"
    status, stored = site.ask("POST", "/gradio_api/upload", body, Content_Type=kind, Origin=origin)
    assert status == 200, stored
    status, _ = site.ask("POST", "/gradio_api/upload", body, Content_Type=kind, Origin="https://evil.example")
    assert status == 403
    status, _ = site.ask(
        "GET", "/config", X_Forwarded_Host="evil.example", X_Forwarded_Proto="https", Origin=origin
    )
    assert status == 200
    assert json.loads(site.ask("GET", "/config")[1])["root"] == site.url


def test_a_browser_classifies_at_the_public_address(site: Site, tmp_path: Path) -> None:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright (pip install playwright)"
    )
    if not CHROMIUM.is_file():
        pytest.skip(f"needs Debian's chromium at {CHROMIUM}")
    (tmp_path / "face.png").write_bytes(picture(2))
    troubles: list[str] = []

    def look_at(address: str) -> None:
        if not address.startswith((site.url, "data:", "blob:")):
            troubles.append(address)

    def hear(message: Any) -> None:  # the site's icon and manifest at its root are not the demo's
        if message.type == "error" and message.location["url"].startswith(f"{site.url}/"):
            troubles.append(message.text)

    with playwright.sync_playwright() as tools:
        rule = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
        started = tools.chromium.launch(executable_path=str(CHROMIUM), args=[*ARGUMENTS, rule])
        page: Any = started.new_context(ignore_https_errors=True).new_page()
        page.on("console", hear)
        page.on("request", lambda one: look_at(one.url))
        page.goto(f"{site.url}/")
        page.locator('.tabitem:visible input[type="file"]').set_input_files([tmp_path / "face.png"])
        page.locator('.crl-drop:visible [aria-label="face.png"]').first.wait_for()
        page.get_by_role("button", name="Classify").locator("visible=true").first.click()
        page.locator(".crl-status >> visible=true").wait_for()
        with page.expect_download() as table:
            page.locator("text=Download all numbers (CSV) >> visible=true").click()
        assert "face.png" in Path(table.value.path()).read_text(encoding="utf-8")
        started.close()
    assert troubles == []
