"""Before the demo opens its door: what it takes from the environment, where it listens, who may come in."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import Any

from apps.demo.security.rules import PublicAddress, known_names
from apps.demo.uploads import UploadFolder
from finetune.cli.console import say
from finetune.errors import UsageError

# Beside GRADIO_*: what makes gradio believe that it runs on a hosting service, or sign people in there.
_HOSTING = {"SYSTEM", "SPACE_ID", "SPACE_HOST", "SPACES_ZERO_GPU", "OPENID_PROVIDER_URL"}
_HOSTING |= {"OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES"}
_OFFLINE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
# Of ways out of this machine, which the demo never takes; a wrong value would end it at gradio's import.
_WAYS_OUT = {"SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
_WAYS_OUT |= {name for proxy in ("http_proxy", "https_proxy", "all_proxy") for name in (proxy, proxy.upper())}
_PORTS_TRIED = 100
_IN_USE = {errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)}


def refuse_environment(folder: Path | None = None) -> list[str]:
    """Make gradio start from the demo's own options only, offline; call it before gradio is imported.

    Every GRADIO_* variable is taken out of this process's environment (they open more files, addresses,
    tunnels and pages than the demo has), those by which a hosting service is known, and those that name
    certificates and proxies for requests to other machines, of which there are none. Then analytics and
    look-ups in model hubs are switched off, requests to this machine are kept from going through a proxy, and
    gradio's temporary files go to `folder`.

    Returns the names of the variables that were ignored, and says them.
    """
    ours = {**_OFFLINE, **({"GRADIO_TEMP_DIR": str(folder)} if folder else {})}
    unwanted = _HOSTING | _WAYS_OUT
    found = [name for name in sorted(os.environ) if name.startswith("GRADIO_") or name in unwanted]
    ignored = [name for name in found if os.environ.pop(name) != ours.get(name)]
    os.environ.update(ours)
    for name in ("NO_PROXY", "no_proxy"):
        listed = [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]
        missing = [host for host in ("localhost", "127.0.0.1", "::1") if host not in listed]
        if "*" not in listed:
            os.environ[name] = ",".join([*listed, *missing])
    for names, why in (
        ([name for name in ignored if name not in _WAYS_OUT], "its own options decide"),
        ([name for name in ignored if name in _WAYS_OUT], "it asks no other machine anything"),
    ):
        if names:
            say(f"note: the demo ignores {', '.join(names)} from the environment; {why}")
    return ignored


def app_kwargs(
    folder: UploadFolder, *, host: str, max_files: int, max_mb: float, public: PublicAddress | None = None
) -> dict[str, Any]:
    """Return what `launch(app_kwargs=...)` takes, so that the guard stands before every route.

    Args:
        folder: where uploads are kept; no other file may be named or handed out.
        host: the address that the demo listens on.
        max_files: images in one upload, >= 1.
        max_mb: size of one image, in MB (10^6 bytes), > 0.
        public: where people find the demo behind another server; None without one.
    """
    from starlette.middleware import Middleware

    from apps.demo.security.body import Limits
    from apps.demo.security.middleware import Guard

    if max_files < 1 or not max_mb > 0:
        raise UsageError(
            f"--max-files must be at least 1 and --max-mb above 0, got {max_files} and {max_mb:g}"
        )
    limits = Limits(max_files, max_mb, folder)
    names = known_names(host, public)
    return {"middleware": [Middleware(Guard, names=names, limits=limits, public=public)]}


def check_bind(host: str, auth: str | None, public: PublicAddress | None = None) -> None:
    """Refuse to listen where other machines can come in without a password.

    A `public` address without an `auth` file is noted: the server in front may ask for passwords itself.
    Raises UsageError for a `host` that is not this machine's own loopback address, without an `auth` file.
    """
    if auth is None and not _is_loopback(host):
        raise UsageError(
            f"--host {host} lets other machines in: name a file of user:password lines with --auth, "
            "or listen on 127.0.0.1"
        )
    if auth is None and public is not None and not _is_loopback(public.name):
        say(
            f"note: no password is asked here (--auth): whoever the server at {public.url} lets in may use "
            "the demo"
        )


def read_auth(file: str) -> list[tuple[str, str]]:
    """Return (user, password) for every line user:password of a file.

    Empty lines and lines that start with # are passed over; a password may hold colons. A file that other
    users of the machine may read is used, with a note.
    Raises UsageError, naming file and line, for a file that is missing or empty, a line without a colon or
    with an empty side, and a user given twice.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
        readable = bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)) and os.name == "posix"
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"--auth {file} cannot be read: {reason}") from None
    people: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.strip().partition(":")
        if not (colon and user.strip() and password):
            raise UsageError(f"--auth {file}, line {number}: needs user:password")
        if user.strip() in people:
            raise UsageError(f"--auth {file}, line {number}: the user {user.strip()} is there twice")
        people[user.strip()] = password
    if not people:
        raise UsageError(f"--auth {file} names nobody: write a line user:password for each person")
    if readable:
        say(f"note: other users of this machine may read {file}; chmod 600 {file} keeps its passwords yours")
    return list(people.items())


def free_port(host: str, port: int, auto: bool) -> int:
    """Return a port to listen on: `port`, or with `auto` the first free one of it and the next hundred.

    Raises UsageError for a port that is in use without `auto`, none that is free, a number outside 1-65535,
    a port for which this user has no right, and a host that is not an address of this machine.
    """
    if not 1 <= port <= 65535:
        raise UsageError(f"--port must be a number from 1 to 65535, got {port}")
    last = min(port + _PORTS_TRIED, 65535) if auto else port
    for candidate in range(port, last + 1):
        # gradio looks for the port on this machine's own address too, whatever it will listen on
        if _is_free(host, candidate) and (":" not in host or _is_free("127.0.0.1", candidate)):
            return candidate
    if auto:
        raise UsageError(f"the ports {port} to {last} on {host} are all in use: choose another with --port")
    raise UsageError(
        f"port {port} on {host} is in use: choose another with --port, or let --auto-port find the next one"
    )


def _is_free(host: str, port: int) -> bool:
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((name, port))
            return True
    except PermissionError:
        raise UsageError(
            f"port {port} is for the system's own services: choose one above 1023 with --port"
        ) from None
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) in _IN_USE:
            return False
        raise UsageError(
            f"--host {host} is no address of this machine ({error}): try 127.0.0.1; a name that another "
            "server has goes to --public-url"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
