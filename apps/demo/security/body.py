"""How much the demo takes in, and which files a request may name: rules on a request's body."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import unquote

from apps.demo.security.rules import FILE_ROUTE, Head, PublicAddress, Refusal
from apps.demo.uploads import UploadFolder

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

JSON_BYTES = 2_000_000
LOGIN_BYTES = 8_000
_PART_BYTES = 4_000  # a part's headers and borders
_SPARE_BYTES = 100_000_000  # of disk space left to everyone else
_DRAIN_BYTES, _DRAIN_SECONDS = 64_000_000, 10.0
_CLOSING_SECONDS = 1.0  # a sender of more may lose an answer whose connection closes while it sends
IDLE_SECONDS = 20.0  # between two pieces of a body
UPLOADS_PER_ADDRESS = 64  # at the same time; a server in front of the demo may stand for many people
_OWN_URL = re.compile(r"(?:https?://([^/]+))?" + re.escape(FILE_ROUTE) + "(.*)", re.DOTALL)


class ClientGone(Exception):  # noqa: N818  it is news, not a fault
    """Nobody waits for an answer any more."""


class Inbox:
    """Where a request's body comes from; knows whether all of it has come, and does not wait for ever."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._complete = False

    async def receive(self) -> Message:
        """Return the next message of the request; refuse to wait long for a piece of its body."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(
                408, f"Nothing came for {IDLE_SECONDS:g} s, so the request was given up; send it again."
            ) from None
        self._complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def drain(self, *, endless: bool = False) -> None:
        """Read and forget the rest of a refused body, so that its sender reads the answer; up to a limit.

        One that is `endless` is not waited for: its sender has a moment to read.
        """
        read, seconds = 0, _CLOSING_SECONDS if endless else _DRAIN_SECONDS
        try:
            async with asyncio.timeout(seconds):
                while not self._complete and read < _DRAIN_BYTES:
                    read += len((await self.receive()).get("body", b""))
        except (TimeoutError, Refusal):
            return


@dataclass
class Limits:
    """What one request, and all of them together, may bring.

    Args:
        max_files: images in one request.
        max_mb: size of one image, in MB (10^6 bytes).
        folder: where images are kept; it may hold twenty full requests at a time.
    """

    max_files: int
    max_mb: float
    folder: UploadFolder
    _coming: Counter[str] = field(default_factory=Counter, init=False)

    @property
    def file_bytes(self) -> int:
        """The largest image, in bytes."""
        return int(self.max_mb * 1e6)

    @property
    def request_bytes(self) -> int:
        """The largest upload, in bytes."""
        return self.max_files * (self.file_bytes + _PART_BYTES) + _PART_BYTES

    def too_large(self) -> NoReturn:
        """Refuse an image for its size."""
        raise Refusal(413, f"An image may have {self.max_mb:g} MB at most; make it smaller and try again.")

    def too_many(self) -> NoReturn:
        """Refuse an upload for the number of its images, or for their size together."""
        raise Refusal(
            413,
            f"At most {self.max_files} images at once, of {self.max_mb:g} MB each; send fewer at a time.",
        )

    def check_room(self, size: int) -> None:
        """Refuse where `size` bytes more have no room beside what has really arrived in the folder.

        What is only announced keeps no room: otherwise a few senders that never send would keep all of it.
        """
        free = shutil.disk_usage(self.folder.path).free
        if self.folder.size() + size > 20 * self.request_bytes or free < size + _SPARE_BYTES:
            raise Refusal(507, "This demo holds as many images as it can; try again in some minutes.")

    @contextmanager
    def upload_from(self, address: str) -> Iterator[None]:
        """Count an upload from `address` while it lasts; refuse one too many at the same time."""
        if self._coming[address] >= UPLOADS_PER_ADDRESS:
            raise Refusal(429, "Too many uploads from this address at once; wait until some have ended.")
        self._coming[address] += 1
        try:
            yield
        finally:
            self._coming[address] -= 1
            if not self._coming[address]:
                del self._coming[address]


def declared_size(head: Head) -> int | None:
    """Return how many bytes a request says it has, None where it does not say."""
    text = head.one(b"content-length")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Refusal(400, "The header content-length must be a whole number.")
    return int(text)


def is_endless(head: Head) -> bool:
    """Return whether a request says that it has more bytes than are read of a refused body."""
    try:
        return (declared_size(head) or 0) > _DRAIN_BYTES
    except Refusal:
        return False


async def read_whole(head: Head, receive: Receive, limit: int) -> bytes:
    """Return a small body; refuse more than `limit` bytes, declared or counted."""
    refusal = Refusal(413, f"The request has more than {limit:,} bytes.")
    if (declared_size(head) or 0) > limit:
        raise refusal
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        if sum(map(len, parts)) > limit:
            raise refusal
        if not message.get("more_body", False):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body already read, and then what else comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def check_files(body: bytes, head: Head, folder: UploadFolder, public: PublicAddress | None = None) -> None:
    """Refuse a JSON body that names a file which was not uploaded here, anywhere in it.

    A file is an object with a `path` or a `url`, whatever else it says. Its path must be an uploaded image;
    its url may be absent, or this demo's own address of that image, as the page sends it: under the name
    that the request came to, or under the `public` one.
    """
    try:
        value = json.loads(body, parse_constant=_finite, parse_float=_finite) if body else None
    except (ValueError, RecursionError):
        raise Refusal(400, "The request is no valid JSON.") from None
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "path" in item or "url" in item:
                url = item.get("url")
                if public is not None and isinstance(url, str):
                    url = url.removeprefix(public.url)
                _check_file(item.get("path"), url, head, folder)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _finite(text: str) -> float:
    """Return the number that `text` says; ValueError for NaN and Infinity, which JSON does not have."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number")
    return value


def check_file_route(head: Head, folder: UploadFolder) -> None:
    """Refuse to hand out anything but what lies in the upload folder."""
    if head.path.startswith(FILE_ROUTE) and not folder.owns(head.path.removeprefix(FILE_ROUTE)):
        raise Refusal(403, "This file is not one of the demo's images or results, or it was removed.")


def _check_file(path: object, url: object, head: Head, folder: UploadFolder) -> None:
    if not isinstance(path, str) or not folder.owns(path):
        raise Refusal(
            403, "The request names a file that was not uploaded here, or was removed since: upload it again."
        )
    if url is None:
        return
    match = _OWN_URL.fullmatch(url) if isinstance(url, str) else None
    places = (None, head.one(b"host"))
    if match is None or match.group(1) not in places or path not in (match.group(2), unquote(match.group(2))):
        raise Refusal(403, "The request names a file by an address; upload the image instead.")
