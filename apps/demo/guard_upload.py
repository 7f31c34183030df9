"""Uploads are counted while they stream in: pictures, bytes of each, bytes of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.demo.guard_body import Limits, Message, Receive, declared_size
from apps.demo.guard_rules import Head, Refusal

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartParser


class UploadWatch:
    """Watches one upload go by; the first rule that it breaks ends it.

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
        self._is_file = False
        if (declared_size(head) or 0) > limits.request_bytes:
            limits.too_many()
        self._parser = self._build_parser(head)

    async def receive(self) -> Message:
        """Return the next message of the request, counted."""
        from starlette.formparsers import MultiPartException

        message = await self._receive()
        if self._complete:
            return message
        if message["type"] == "http.disconnect":
            self.gone = True
            raise MultiPartException("the sender went away")
        try:
            self._count(message.get("body", b""))
        except Refusal as refusal:
            self.refusal = refusal
            raise MultiPartException(refusal.sentence) from None
        self._complete = not message.get("more_body", False)
        return message

    def _count(self, data: bytes) -> None:
        from python_multipart.exceptions import FormParserError

        self._all += len(data)
        if self._all > self._limits.request_bytes:
            self._limits.too_many()
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
            raise Refusal(400, "Upload pictures as a form (multipart/form-data).")
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
        self._name = self._value = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._is_file = options.get(b"name") == b"files" and b"filename" in options
        self._name = self._value = b""

    def _headers_end(self) -> None:
        if not self._is_file:
            raise Refusal(400, "An upload holds pictures only, each in a field called files.")
        self._files += 1
        if self._files > self._limits.max_files:
            self._limits.too_many()

    def _data(self, _data: bytes, start: int, end: int) -> None:
        self._bytes += end - start
        if self._bytes > self._limits.file_bytes:
            self._limits.too_large()
