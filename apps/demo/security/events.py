"""An answer to /predict that nobody asked for is told in words, not as a stream that breaks off."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from apps.demo.security.body import Message
from apps.demo.security.rules import Head, Refusal

_EVENTS = re.compile(r"/gradio_api/call/(v2/)?[\w-]+/[\w-]+/?")
_FAILED = b"event: error"


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
