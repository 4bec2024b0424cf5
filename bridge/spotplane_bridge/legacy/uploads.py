"""Uploads: a multipart body as the messages of a client stream, chunk by chunk."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from spotplane_bridge.errors import Failure, invalid

MAX_BYTES: Final = 100 * 1024 * 1024
CHUNK_BYTES: Final = 256 * 1024
MAX_TEXT_BYTES: Final = 16 * 1024
MAX_PARTS: Final = 64
# Limit of boundaries and the headers of all parts, which are held in memory: 1 KiB for each part.
MAX_HEAD_BYTES: Final = MAX_PARTS * 1024

_BOUNDARY_LINE: Final = re.compile(rb"--([0-9A-Za-z'()+_,./:=? -]{1,70}?)\r?\n")


@dataclass(frozen=True, slots=True)
class Upload:
    """Converts a multipart body into messages; each function returns one request message.

    Args:
        files: Names of the parts that are files, each of any number.
        begin: A file begins: its name and the name of its part.
        chunk: A part of its bytes.
        finish: All parts are read: the texts of the other parts by name. None sends nothing.
        max_bytes: Largest body.
    """

    files: tuple[str, ...]
    begin: Callable[[str, str], Any]
    chunk: Callable[[bytes], Any]
    finish: Callable[[Mapping[str, str]], Any] | None = None
    max_bytes: int = MAX_BYTES


async def messages(upload: Upload, request: web.Request) -> AsyncIterator[Any]:
    """Read the body and yield its messages.

    Raises:
        Failure: 400 when it is no multipart body or has no file, 413 when it is too large.
    """
    if (request.content_length or 0) > upload.max_bytes:
        raise _too_large(upload)
    source = _Counted(request.content, upload)
    reader = await _reader(request.headers.get("Content-Type", ""), source)
    texts: dict[str, str] = {}
    files = 0
    try:
        for _ in range(MAX_PARTS):
            part = await reader.next()
            if part is None:
                break
            if not isinstance(part, aiohttp.BodyPartReader):
                raise Failure(400, "INVALID_FIELD", "a part may not hold parts")
            name = part.name or ""
            if name not in upload.files:
                texts[name] = await _text(part, name)
                continue
            files += 1
            yield upload.begin(part.filename or name, name)
            while data := await part.read_chunk(CHUNK_BYTES):
                yield upload.chunk(bytes(data))
        else:
            raise Failure(400, "OUT_OF_RANGE", f"a body may have at most {MAX_PARTS} parts")
    except (ValueError, AssertionError, aiohttp.http_exceptions.HttpProcessingError) as err:
        raise Failure(400, "INVALID_FIELD", "the body is not well-formed multipart") from err
    if not files:
        raise invalid("MISSING_FIELD", upload.files[0], "at least one file is needed")
    if upload.finish is not None:
        yield upload.finish(texts)


class _Counted:
    """A body that ends in 413 once it is too large, and accepts a first line back."""

    def __init__(self, content: aiohttp.StreamReader, upload: Upload) -> None:
        self._content = content
        self._upload = upload
        self._left = upload.max_bytes
        self._head_left = MAX_HEAD_BYTES
        self._first = b""

    def put_back(self, line: bytes) -> None:
        self._first = line

    async def readline(self, **how: Any) -> bytes:
        if self._first:
            line, self._first = self._first, b""
            return line
        line = self._count(await self._content.readline(**how))
        self._head_left -= len(line)
        if self._head_left < 0:
            text = f"headers of parts may have at most {MAX_HEAD_BYTES} bytes"
            raise Failure(413, "PAYLOAD_TOO_LARGE", text)
        return line

    async def readuntil(self, *args: Any, **how: Any) -> bytes:
        if self._first:
            line, self._first = self._first, b""
            return line
        return self._count(await self._content.readuntil(*args, **how))

    async def read(self, n: int = -1) -> bytes:
        return self._count(await self._content.read(n))

    def _count(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._upload)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


async def _reader(content_type: str, source: _Counted) -> aiohttp.MultipartReader:
    """Return a reader of the parts; a body with a wrong label begins with its boundary."""
    if not content_type.lower().startswith("multipart/"):
        first = await source.readline()
        match = _BOUNDARY_LINE.fullmatch(first)
        if match is None:
            raise Failure(400, "INVALID_FIELD", "the body must be multipart/form-data")
        source.put_back(first)
        content_type = f'multipart/form-data; boundary="{match[1].decode()}"'
    headers = CIMultiDict({"Content-Type": content_type})
    try:
        return aiohttp.MultipartReader(headers, source)  # type: ignore[arg-type]
    except ValueError as err:
        raise Failure(400, "INVALID_FIELD", "the body's content type has no boundary") from err


async def _text(part: aiohttp.BodyPartReader, name: str) -> str:
    data = bytearray()
    while chunk := await part.read_chunk(CHUNK_BYTES):
        data += chunk
        if len(data) > MAX_TEXT_BYTES:
            raise invalid("OUT_OF_RANGE", name, f"must have at most {MAX_TEXT_BYTES} bytes")
    return data.decode(errors="replace")


def _too_large(upload: Upload) -> Failure:
    return Failure(
        413, "PAYLOAD_TOO_LARGE", f"an upload may have at most {upload.max_bytes >> 20} MiB"
    )
