import os
import socket
import sys

import pytest

from apps.demo.security import startup as guard
from apps.demo.security.startup import app_kwargs, check_bind, free_port, read_auth, refuse_environment
from apps.demo.uploads import UploadFolder
from finetune.errors import UsageError


@pytest.fixture
def environment(monkeypatch):
    """The environment, given back after the test whatever `refuse_environment` does to it."""
    kept = dict(os.environ)
    for name in guard._WAYS_OUT:
        os.environ.pop(name, None)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(kept)


def test_what_widens_access_is_taken_out_and_said(environment, capsys, tmp_path):
    wide = {
        "GRADIO_SHARE": "True",
        "GRADIO_ALLOWED_PATHS": "/",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": "80",
        "GRADIO_ROOT_PATH": "https://elsewhere.example",
        "GRADIO_MCP_SERVER": "True",
        "GRADIO_SSR_MODE": "True",
        "GRADIO_VIBE_MODE": "1",
        "GRADIO_ANALYTICS_ENABLED": "True",
        "GRADIO_TEMP_DIR": "/var/www",
        "SYSTEM": "spaces",
    }
    for name, value in wide.items():
        environment.setenv(name, value)
    environment.setenv("HOME_OF_GRADIO", "stays")
    assert sorted(wide) == refuse_environment(tmp_path)
    left = {name: os.environ[name] for name in os.environ if name.startswith("GRADIO_")}
    assert left == {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path)}
    assert os.environ["HOME_OF_GRADIO"] == "stays"
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "GRADIO_SHARE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "ALL_PROXY", "https_proxy"]
)
def test_certificates_and_proxies_cannot_end_the_start(environment, capsys, name):
    """Each value makes httpx fail when gradio is imported; the demo asks no other machine anything."""
    environment.setenv(name, "socks5://none")
    assert refuse_environment() == [name]
    assert name not in os.environ
    assert f"ignores {name} from" in capsys.readouterr().out


def test_a_second_call_ignores_nothing_and_says_nothing(environment, capsys, tmp_path):
    refuse_environment(tmp_path)
    capsys.readouterr()
    assert refuse_environment(tmp_path) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "localhost,127.0.0.1,::1"),
        ("intranet, 127.0.0.1", "intranet,127.0.0.1,localhost,::1"),
        ("*", "*"),
    ],
)
def test_this_machine_is_not_asked_through_a_proxy(environment, before, after):
    for name in ("NO_PROXY", "no_proxy"):
        if before is None:
            environment.delenv(name, raising=False)
        else:
            environment.setenv(name, before)
    refuse_environment()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == after


def test_the_guard_comes_without_gradio_or_torch(tmp_path):
    import subprocess

    code = "import sys, apps.demo.security.startup, apps.demo.security.middleware, apps.demo.uploads\n"
    code += "import apps.demo.loss_explorer\n"
    code += "print(sorted({'torch', 'gradio', 'cv2', 'timm', 'albumentations'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_app_kwargs_is_what_fastapi_takes(tmp_path):
    from fastapi import FastAPI

    with UploadFolder(tmp_path) as folder:
        app = FastAPI(**app_kwargs(folder, host="127.0.0.1", max_files=2, max_mb=1))
    assert [item.cls.__name__ for item in app.user_middleware] == ["Guard"]


@pytest.mark.parametrize(("max_files", "max_mb"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_limits_that_let_nothing_in_are_refused(tmp_path, max_files, max_mb):
    with UploadFolder(tmp_path) as folder, pytest.raises(UsageError, match="--max-files"):
        app_kwargs(folder, host="127.0.0.1", max_files=max_files, max_mb=max_mb)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8", "LOCALHOST"])
def test_this_machine_alone_needs_no_password(host):
    check_bind(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "localhost.example", "example.org", ""])
def test_other_machines_need_a_password(host):
    with pytest.raises(UsageError, match="--auth"):
        check_bind(host, None)
    check_bind(host, "people.txt")


def test_read_auth(tmp_path, capsys):
    file = tmp_path / "people.txt"
    file.write_text("\ufeff# who may come in\n\nann:one:two\r\n bob : three\n", encoding="utf-8")
    file.chmod(0o600)
    assert read_auth(str(file)) == [("ann", "one:two"), ("bob", " three")]
    assert capsys.readouterr().out == ""


def test_a_password_file_that_others_may_read_is_told(tmp_path, capsys):
    file = tmp_path / "people.txt"
    file.write_text("ann:one\n")
    file.chmod(0o644)
    assert read_auth(str(file)) == [("ann", "one")]
    assert f"chmod 600 {file}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names nobody"),
        (b"# nobody\n", "names nobody"),
        (b"ann:one\nbob\n", "line 2: needs user:password"),
        (b"ann:\n", "line 1: needs user:password"),
        (b":one\n", "line 1: needs user:password"),
        (b"ann:one\nann:two\n", "ann is there twice"),
        (b"\xff\xfe", "no UTF-8"),
    ],
)
def test_a_password_file_that_cannot_be_right(tmp_path, content, words):
    file = tmp_path / "people.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_auth(str(file))
    assert str(file) in str(caught.value)
    assert "one" not in str(caught.value)  # no password ends up on a screen


def test_a_missing_password_file(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_auth(str(tmp_path / "none.txt"))


def test_a_port_in_use_is_refused_unless_the_next_one_will_do():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} on 127.0.0.1 is in use.*--port.*--auto-port"):
            free_port("127.0.0.1", port, auto=False)
        if port < 65535:
            assert free_port("127.0.0.1", port, auto=True) > port


def test_a_free_port_is_taken_as_it_is():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert free_port("127.0.0.1", port, auto=False) == port


def test_gradio_needs_the_port_on_the_old_address_too():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="in use"):
            free_port("::1", taken.getsockname()[1], auto=False)


def test_no_free_port_at_all(monkeypatch):
    monkeypatch.setattr("apps.demo.security.startup._is_free", lambda host, port: False)
    with pytest.raises(UsageError, match=r"65530 to 65535 .* are all in use"):
        free_port("127.0.0.1", 65530, auto=True)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_no_port(port):
    with pytest.raises(UsageError, match="1 to 65535"):
        free_port("127.0.0.1", port, auto=True)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a" * 300])
def test_a_host_that_is_not_this_machine(host):
    with pytest.raises(UsageError, match="no address of this machine"):
        free_port(host, 7860, auto=False)
