"""Credentials that are no text are refused without a trace of them in the log."""

from __future__ import annotations

import asyncio
import struct

import pytest

from tests.support.plane import Plane

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
_END_HEADERS, _END_STREAM = 4, 1
BAD = b"Bearer sp_live_\xff\xfe\xe9"


def frame(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + b"\0\0\0\x01" + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that is neither indexed nor compressed."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


async def call(plane: Plane, key: bytes, value: bytes) -> bytes:
    """Call `ListOwnApiKeys` by bytes, as no gRPC client would; what comes back."""
    headers = b"".join(
        literal(name, text)
        for name, text in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/spotplane.v1.ApiKeyService/ListOwnApiKeys"),
            (b":authority", b"x"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (key, value),
        )
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.server.port)
    writer.write(
        _PREFACE
        + _SETTINGS
        + frame(1, _END_HEADERS, headers)
        + frame(0, _END_STREAM, b"\0\0\0\0\0")
    )
    try:
        found = b""
        while b"grpc-status" not in found and (data := await reader.read(65536)):
            found += data
        return found
    finally:
        writer.close()


@pytest.mark.parametrize("key", [b"authorization", b"x-client-token", b"x-admin-token"])
async def test_a_credential_that_is_no_text_is_refused(
    plane: Plane, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    found = await call(plane, key, BAD)

    assert b"16" in found  # UNAUTHENTICATED
    assert b"_INVALID" in found
    assert caplog.records == []


async def test_other_metadata_that_is_no_text_is_ignored(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    assert b"API_KEY_MISSING" in await call(plane, b"x-other", b"\xff")
    assert caplog.records == []
