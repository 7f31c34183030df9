"""Uploads are counted while they stream in: images, bytes of each, bytes of all; and names are corrected."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from apps.demo.security.body import Limits, Message, Receive, declared_size
from apps.demo.security.rules import Head, Refusal

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartParser

_ROOM_STEP = 1_000_000  # bytes that may come in before the folder is looked at again
_HEADER_BYTES = 8_000  # of one image's headers, as gradio has it
_FORBIDDEN = re.compile(rb'[<>:"|?*\x00-\x1f\x7f`$!{}]')  # what gradio leaves out of a name


def safe_name(name: bytes) -> bytes:
    """Return an image's name without a dot at its front: gradio takes such files for secrets.

    >>> safe_name(b"a.jpg"), safe_name(b"._IMG.jpg"), safe_name(b".png"), safe_name(b"x/..")
    (b'a.jpg', b'file._IMG.jpg', b'file.png', b'file')
    """
    last = _FORBIDDEN.sub(b"", re.split(rb"[/\\]", name)[-1])
    return (b"file" + last).rstrip(b" .") if last.lstrip().startswith(b".") else name


class UploadWatch:
    """Watches one upload go by and corrects its images' names; the first rule that it breaks ends it.

    Args:
        head: the request's head.
        receive: where its body comes from.
        limits: what it may bring.

    `receive` hands the body on. When a rule is broken, or the sender goes away, it raises the error at which
    gradio removes what it has written so far; `refusal` then tells why, and `gone` that nobody waits.
    """

    def __init__(self, head: Head, receive: Receive, limits: Limits) -> None:
        self.refusal: Refusal | None = None
        self.gone = False
        self._receive, self._limits = receive, limits
        self._complete = False
        self._all = self._files = self._bytes = 0
        self._name, self._value = b"", b""
        self._is_file = self._in_headers = False
        self._held = bytearray()  # whole headers are kept back, so that a name in them can be changed
        self._held_before = self._value_start = self._value_end = self._header_bytes = 0
        self._edits: list[tuple[int, int, bytes]] = []
        size = declared_size(head) or 0
        if size > limits.request_bytes:
            limits.too_many()
        limits.check_room(size)
        self._parser = self._build_parser(head)

    async def receive(self) -> Message:
        """Return the next message of the request, counted."""
        from starlette.formparsers import MultiPartException

        if self._complete:
            return await self._receive()
        try:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self.gone = True
                    raise MultiPartException("the sender went away")
                self._count(message.get("body", b""))
                self._complete = not message.get("more_body", False)
                if self._complete or not self._in_headers:
                    return {**message, "body": self._mended()}
        except Refusal as refusal:
            self.refusal = refusal
            raise MultiPartException(refusal.sentence) from None

    def _mended(self) -> bytes:
        """Return what was kept back, with the changed names, and keep nothing back."""
        for start, end, value in reversed(self._edits):
            self._held[start:end] = value
        body = bytes(self._held)
        self._held.clear()
        self._edits.clear()
        return body

    def _count(self, data: bytes) -> None:
        from python_multipart.exceptions import FormParserError

        steps = self._all // _ROOM_STEP
        self._all += len(data)
        if self._all > self._limits.request_bytes:
            self._limits.too_many()
        if self._all // _ROOM_STEP > steps:
            self._limits.check_room(len(data))
        self._held_before = len(self._held)
        self._held += data
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Refusal(400, f"The upload is no valid form: {error}") from None

    def _build_parser(self, head: Head) -> MultipartParser:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(head.one(b"content-type") or "")
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise Refusal(400, "Upload images as a form (multipart/form-data).")
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
        }
        try:
            return MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise Refusal(400, f"The upload is no valid form: {error}") from None

    def _begin(self) -> None:
        self._bytes, self._is_file = 0, False
        self._in_headers, self._header_bytes = True, 0
        self._name = self._value = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        if not self._value:
            self._value_start = self._held_before + start
        self._value_end = self._held_before + end
        self._value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _HEADER_BYTES:
            raise Refusal(400, "The upload is no valid form: an image's headers are too long.")

    def _header_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._is_file = options.get(b"name") == b"files" and b"filename" in options
            name = options.get(b"filename", b"")
            if (mended := safe_name(name)) != name:
                value = b'form-data; name="files"; filename="' + mended + b'"'
                self._edits.append((self._value_start, self._value_end, value))
        self._name = self._value = b""

    def _headers_end(self) -> None:
        self._in_headers = False
        if not self._is_file:
            raise Refusal(400, "An upload holds images only, each in a field called files.")
        self._files += 1
        if self._files > self._limits.max_files:
            self._limits.too_many()

    def _data(self, _data: bytes, start: int, end: int) -> None:
        self._bytes += end - start
        if self._bytes > self._limits.file_bytes:
            self._limits.too_large()
