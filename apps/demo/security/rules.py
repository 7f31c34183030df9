"""Whom the demo answers, and what for: rules on a request's head, plain functions that refuse in words."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.errors import UsageError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
FILE_ROUTE = "/gradio_api/file="
UPLOAD_ROUTE = "/gradio_api/upload"

# What the page, gradio_client and curl need; gradio has some eighty routes more.
_ROUTES = {
    "GET": re.compile(
        r"/|/(config|theme\.css|favicon\.ico|pwa_icon|manifest\.json|robots\.txt|logout)|/(assets|static|svelte)/.+"
        r"|/gradio_api/(info|startup-events|upload_progress|queue/data|heartbeat/[\w-]+|file=.+)"
        r"|/gradio_api/call/(v2/)?[\w-]+/[\w-]+",
        re.DOTALL,
    ),
    "HEAD": re.compile(r"/|/gradio_api/file=.+", re.DOTALL),
    "POST": re.compile(
        r"/login|/gradio_api/(upload|reset|cancel|queue/join|run/[\w-]+|call/(v2/)?[\w-]+)",
    ),
}
# These let a caller choose the addresses that gradio writes into pages it keeps for others.
_DROPPED_HEADERS = frozenset({b"x-forwarded-host", b"x-forwarded-prefix", b"x-gradio-server"})


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault
    """A request that is not served: the HTTP status and a sentence for the person who asked."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True)
class Head:
    """What a request says before its body: method, decoded path, and header values by lower-case name."""

    method: str
    path: str
    headers: Mapping[bytes, tuple[str, ...]]

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> Head:
        """Return the head of an ASGI request."""
        headers: dict[bytes, tuple[str, ...]] = {}
        for name, value in scope["headers"]:
            headers[name.lower()] = (*headers.get(name.lower(), ()), value.decode("latin-1"))
        return cls(scope["method"], scope["path"], headers)

    def one(self, name: bytes) -> str | None:
        """Return a header's only value, None where it is absent; refuse one that is given twice."""
        values = self.headers.get(name, ())
        if len(values) > 1:
            raise Refusal(400, f"The header {name.decode()} may be given once only.")
        return values[0] if values else None


@dataclass(frozen=True)
class PublicAddress:
    """Where people find a demo that stands behind another server: `origin` and path `prefix` of its address.

    `prefix` is empty, or begins with a slash and ends without one.
    """

    origin: str
    prefix: str

    @property
    def name(self) -> str:
        """The host name alone, as the server in front may pass it on."""
        return _host_name(self.origin.partition("://")[2])

    @property
    def url(self) -> str:
        """The address of the page, without a slash at its end."""
        return self.origin + self.prefix


def read_public_address(url: str) -> PublicAddress:
    """Return the parts of `--public-url`.

    Raises UsageError for what is no http or https address of a host, with a port and a path at most.

    >>> read_public_address("https://Faces.example.org/ages/")
    PublicAddress(origin='https://faces.example.org', prefix='/ages')
    """
    match = re.fullmatch(r"(https?)://([^/?#]+)((?:/[\w.~-]+)*)/?", url.strip(), re.IGNORECASE | re.ASCII)
    if match is None or not _host_name(match.group(2)):
        raise UsageError(
            f"--public-url must be an address such as https://faces.example.org/ages, got {url!r}: "
            "http or https, a host, and at most a port and a path of plain letters"
        )
    scheme, place, prefix = match.groups()
    default = DEFAULT_PORTS[scheme.lower()]
    return PublicAddress(f"{scheme.lower()}://{place.lower().removesuffix(default)}", prefix)


def known_names(host: str, public: PublicAddress | None = None) -> frozenset[str]:
    """Return the names by which a demo that listens on `host`, and is found at `public`, may be called.

    >>> sorted(known_names("127.0.0.1"))
    ['127.0.0.1', '::1', 'localhost']
    """
    own = socket.gethostname().lower()
    extra = {own, f"{own}.local", *ANY_ADDRESS} if host in ANY_ADDRESS else {host.strip("[]").lower()}
    return LOOPBACK_NAMES | extra | ({public.name} if public else set())


def check_host(head: Head, names: Collection[str]) -> None:
    """Refuse a request under another name, as a web page that has its own name point here would send it.

    A demo that listens on every address also answers to any bare IP address: such a page needs a name.
    """
    host = head.one(b"host") or ""
    name = _host_name(host)
    if name in names or (not ANY_ADDRESS.isdisjoint(names) and _is_address(name)):
        return
    raise Refusal(
        421,
        f"This demo does not answer to the name {name[:100]!r}; start it with --host and that name, "
        "or with --public-url where another server has that name.",
    )


def check_origin(head: Head, public: PublicAddress | None = None) -> None:
    """Refuse what another web page sends or embeds; following a link to the demo's own page is fine.

    A browser says where a request comes from (Origin, Sec-Fetch-Site); curl and gradio_client say nothing.
    The page at the `public` address is the demo's own too, whatever Host the server in front sends.
    """
    origin, site = head.one(b"origin"), head.one(b"sec-fetch-site")
    own = origin is None or _same_place(origin, head.one(b"host") or "")
    if not own and (public is None or origin is None or _plain_origin(origin) != public.origin):
        raise Refusal(403, "Another web page may not use this demo; open the demo's own page.")
    if site in (None, "same-origin", "none"):
        return
    opened = head.method == "GET" and head.path == "/" and head.one(b"sec-fetch-mode") == "navigate"
    if not opened:
        raise Refusal(403, "Another web page may not use this demo; open the demo's own page.")


def check_route(head: Head) -> None:
    """Refuse a path that the demo does not need."""
    known = _ROUTES.get(head.method)
    path = head.path if len(head.path) == 1 or FILE_ROUTE in head.path else head.path.removesuffix("/")
    if known is None or known.fullmatch(path) is None:
        raise Refusal(404, "There is nothing at this address.")


def without_dropped(scope: Mapping[str, Any], public: PublicAddress | None = None) -> dict[str, Any]:
    """Return the request without headers that change the addresses written into the page.

    The path prefix of the `public` address goes too, where the server in front has left it.
    """
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _DROPPED_HEADERS]
    kept = {**scope, "headers": headers}
    prefix = public.prefix if public else ""
    if prefix and (scope["path"] == prefix or scope["path"].startswith(f"{prefix}/")):
        kept["path"] = scope["path"].removeprefix(prefix) or "/"
        kept["raw_path"] = scope.get("raw_path", b"").removeprefix(prefix.encode()) or b"/"
    return kept


def _host_name(host: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/@\s]+)(:\d{1,5})?", host)
    return match.group(1).strip("[]").lower() if match else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _plain_origin(origin: str) -> str:
    """Return an origin in small letters and without the scheme's own port."""
    origin = origin.lower()
    return origin.removesuffix(DEFAULT_PORTS.get(origin.partition("://")[0], ""))


def _same_place(origin: str, host: str) -> bool:
    scheme, found, place = origin.partition("://")
    default = DEFAULT_PORTS.get(scheme)
    if not found or default is None:
        return False
    return place.lower().removesuffix(default) == host.lower().removesuffix(default)
