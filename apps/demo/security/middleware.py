"""The demo's doorkeeper: an ASGI middleware that refuses in words and adds safe headers to every answer."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

from apps.demo.security.body import (
    JSON_BYTES,
    LOGIN_BYTES,
    ClientGone,
    Inbox,
    Limits,
    Message,
    Receive,
    check_file_route,
    check_files,
    is_endless,
    read_whole,
    replay,
)
from apps.demo.security.login import LoginLimit
from apps.demo.security.rules import (
    FILE_ROUTE,
    UPLOAD_ROUTE,
    Head,
    PublicAddress,
    Refusal,
    check_host,
    check_origin,
    check_route,
    without_dropped,
)
from apps.demo.security.upload import UploadWatch
from finetune.cli.console import say

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), display-capture=()",
}
# gradio's HTML component fills its template by eval; scripts written into the page run only if they were
# there when it left the server: the policy lists their hashes.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
    "media-src 'self' blob:; worker-src 'self' blob:; frame-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"
_KEPT = re.compile(r"/(assets|static|svelte)/.+|/theme\.css|/favicon\.ico")
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)

_EVENTS = re.compile(r"/gradio_api/call/(v2/)?[\w-]+/[\w-]+/?")
_FAILED = b"event: error"


class Guard:
    """Stands before gradio: answers to known names only, serves what the demo needs and nothing else.

    Args:
        app: the application behind it.
        names: the host names that it answers to (`guard_rules.known_names`).
        limits: what a request may bring.
        public: where people find the demo behind another server; None where they come to it directly.

    What is refused gets a status and a sentence: as JSON with `detail` and `error`, which the page and
    gradio_client show, or as plain text for an upload.
    """

    def __init__(
        self, app: App, names: Collection[str], limits: Limits, public: PublicAddress | None = None
    ) -> None:
        self.app, self.names, self.limits, self.logins = app, names, limits, LoginLimit()
        self.public = public

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(without_dropped(scope, self.public), receive, send)
        else:  # gradio 6 uses no web sockets
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Any, receive: Receive, send: Send) -> None:
        head, inbox = Head.of(scope), Inbox(receive)
        send = _Dressed(head, send)
        try:
            check_host(head, self.names)
            check_origin(head, self.public)
            check_route(head)
            check_file_route(head, self.limits.folder)
            if head.method == "POST":
                await self._serve_body(head, scope, inbox.receive, send)
            else:
                await self._serve_reading(head, scope, inbox.receive, send)
        except Refusal as refusal:
            if send.started:  # the rest of a body that nobody needed did not come
                return
            # Whoever expects a "100 continue" has sent no body yet; whoever fell silent sends no more.
            waits = b"expect" in head.headers or refusal.status == 408
            await _answer(head, refusal, send, None if waits else inbox)
        except ClientGone:
            return
        except Exception as error:
            if send.started:
                raise
            # gradio lets a call that it cannot make sense of fall through as an error of its own
            reason = f"{type(error).__name__}: {str(error)[:200]!r}"
            say(f"note: {head.method} {head.path[:100]!r} failed: {reason}")
            await _answer(head, Refusal(500, "This request cannot be answered; ask as the page does."), send)

    async def _serve_reading(self, head: Head, scope: Any, receive: Receive, send: Send) -> None:
        stream = EventStream(head, send)
        try:
            await self.app(scope, receive, stream)
        except Exception:
            stream.check_known()
            raise

    async def _serve_body(self, head: Head, scope: Any, receive: Receive, send: Send) -> None:
        if head.path.rstrip("/") == UPLOAD_ROUTE:
            await self._serve_upload(head, scope, receive, send)
            return
        if head.path.rstrip("/") == "/login":
            await self._serve_login(head, scope, receive, send)
            return
        body = await read_whole(head, receive, JSON_BYTES)
        check_files(body, head, self.limits.folder, self.public)
        await self.app(scope, replay(body, receive), send)

    async def _serve_login(self, head: Head, scope: Any, receive: Receive, send: Send) -> None:
        body = await read_whole(head, receive, LOGIN_BYTES)
        mark = self.logins.begin(_address(scope))

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self.logins.succeeded(_address(scope), mark)
            await send(message)

        await self.app(scope, replay(body, receive), send_and_note)

    async def _serve_upload(self, head: Head, scope: Any, receive: Receive, send: Send) -> None:
        from starlette.formparsers import MultiPartException

        watch = UploadWatch(head, receive, self.limits)  # looks at the room in the folder first

        async def send_unless_refused(message: Message) -> None:
            if watch.refusal is None and not watch.gone:
                await send(message)

        with self.limits.upload_from(_address(scope)):
            try:
                await self.app(scope, watch.receive, send_unless_refused)
            except MultiPartException:  # our own: gradio has removed what it had written
                if watch.refusal is None and not watch.gone:
                    raise
        if watch.gone:
            raise ClientGone
        if watch.refusal is not None:
            raise watch.refusal


class _Dressed:
    """A `send` that adds the safe headers; the page itself is held back until its scripts are known."""

    def __init__(self, head: Head, send: Send) -> None:
        self.started = False
        self._head, self._send = head, send
        self._page: list[Message] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_page(self._head, message):
            self._page.append(message)
            return
        if self._page:
            self._page.append(message)
            if not message.get("more_body", False):
                await self._send_page()
            return
        if message["type"] == "http.response.start":
            _dress(self._head, message, ())
        self.started = True
        await self._send(message)

    async def _send_page(self) -> None:
        start, *parts = self._page
        self._page, self.started = [], True
        _dress(self._head, start, script_hashes(b"".join(part.get("body", b"") for part in parts)))
        for part in (start, *parts):
            await self._send(part)


def script_hashes(page: bytes) -> list[str]:
    """Return the hashes of a page's own scripts, as a content security policy lists them.

    >>> script_hashes(b"<script>a()</script><script src='x.js'></script>")
    ["'sha256-qVpDBgj7bpq5hMAcGp3AOc79J3Y1Z4HvySTwKrWDoy4='"]
    """
    hashes = [hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(page)]
    return [f"'sha256-{base64.b64encode(value).decode()}'" for value in dict.fromkeys(hashes)]


def _is_page(head: Head, start: Message) -> bool:
    kind = dict(start.get("headers", [])).get(b"content-type", b"")
    return head.method == "GET" and kind.startswith(b"text/html") and not head.path.startswith(FILE_ROUTE)


def _dress(head: Head, start: Message, hashes: Iterable[str]) -> None:
    is_file = head.path.startswith(FILE_ROUTE)
    policy = _FILE_POLICY if is_file else _POLICY.format(hashes="".join(f" {value}" for value in hashes))
    own = {**_HEADERS, "content-security-policy": policy}
    if not _KEPT.fullmatch(head.path):
        own["cache-control"] = "no-store"
    kept = [(name, value) for name, value in start.get("headers", []) if name.lower().decode() not in own]
    start["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in own.items())]


def _address(scope: Any) -> str:
    """Return the address that a request comes from, "" where the server does not know it."""
    return str((scope.get("client") or ("",))[0])


async def _answer(head: Head, refusal: Refusal, send: Send, inbox: Inbox | None = None) -> None:
    """Answer at once, and only then read what else comes into the `inbox`."""
    if head.path.rstrip("/") == UPLOAD_ROUTE:
        body, kind = refusal.sentence.encode(), b"text/plain; charset=utf-8"
    else:
        body = json.dumps({"detail": refusal.sentence, "error": refusal.sentence}).encode()
        kind = b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    endless = is_endless(head)
    if refusal.status == 408 or endless:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    shown = {"type": "http.response.body", "body": b"" if head.method == "HEAD" else body}
    if inbox is not None:
        await send({**shown, "more_body": True})
        await inbox.drain(endless=endless)
        shown["body"] = b""
    await send(shown)


class EventStream:
    """A `send` that holds an answer's first event back while it may still turn out that there is no answer.

    Args:
        head: the request's head; only the address of an answer is held back.
        send: where the messages go.

    For an id that it does not know, gradio says 200, then "error", then fails; for one whose answer is an
    error it ends the stream in order. So an error that comes first waits for what follows it.
    """

    def __init__(self, head: Head, send: Callable[[Message], Awaitable[None]]) -> None:
        self._held: list[Message] = []
        self._send = send
        self._watching = head.method == "GET" and _EVENTS.fullmatch(head.path) is not None

    async def __call__(self, message: Message) -> None:
        """Pass a message on, or keep it until the next one."""
        if self._watching:
            self._held.append(message)
            starts = message["type"] == "http.response.start" and message["status"] == 200
            if starts or (len(self._held) == 2 and message.get("body", b"").startswith(_FAILED)):
                return
            self._watching = False
            for held in self._held:
                await self._send(held)
        else:
            await self._send(message)

    def check_known(self) -> None:
        """Refuse, after a failure, a request whose answer had not begun: there is none under this id."""
        if self._watching and self._held:
            raise Refusal(
                404, "There is no answer under this id: it was fetched already, given up, or never asked for."
            )
