"""Streamed answers: chunk by chunk, and broken off when they fail."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientError, ClientSession

from tests.bridge.fake_plane import FakePlane
from tests.support.eventually import eventually


async def test_a_stream_of_chunks_is_one_body(http: ClientSession) -> None:
    """With the type of its first chunk and the server's headers."""
    async with http.get("/admin/tenants/x/export") as answer:
        assert await answer.read() == b"part0;part1;part2;"
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="t.zip"'
    assert answer.headers["X-Request-ID"]


async def test_a_stream_that_fails_at_once_is_an_error(http: ClientSession) -> None:
    """Nothing is sent yet, so the status can still tell."""
    async with http.get("/admin/tenants/refused/export") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "TENANT_NOT_FOUND"


async def test_a_stream_that_fails_later_breaks_the_connection(http: ClientSession) -> None:
    """Half an archive must not look like a whole one."""
    async with http.get("/admin/tenants/broken/export") as answer:
        assert answer.status == 200
        with pytest.raises(ClientError):
            await answer.read()


async def test_a_client_that_leaves_ends_the_call(http: ClientSession, plane: FakePlane) -> None:
    """The server does not go on producing for nobody."""
    answer = await http.get("/admin/tenants/endless/export")
    await answer.content.readexactly(1_000_000)
    assert plane.exports_open == 1
    answer.close()
    await eventually(lambda: plane.exports_open == 0)


async def test_an_idle_stream_is_not_read_ahead(http: ClientSession, plane: FakePlane) -> None:
    """A slow reader slows the server down instead of filling the bridge's memory."""
    async with asyncio.timeout(20):
        answer = await http.get("/admin/tenants/endless/export")
        assert await answer.content.readexactly(10)
        answer.close()
    await eventually(lambda: plane.exports_open == 0)
