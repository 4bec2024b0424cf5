"""Streamed answers: chunk by chunk, and broken off when they fail."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientError, ClientSession

from tests.bridge.fake_plane import FakePlane
from tests.support.eventually import eventually


async def test_a_stream_of_chunks_is_one_body(http: ClientSession) -> None:
    async with http.get("/admin/tenants/x/export") as response:
        assert await response.read() == b"part0;part1;part2;"
    assert response.headers["Content-Type"] == "application/zip"
    assert response.headers["Content-Disposition"] == 'attachment; filename="t.zip"'
    assert response.headers["X-Request-ID"]


async def test_a_stream_that_fails_at_once_is_an_error(http: ClientSession) -> None:
    async with http.get("/admin/tenants/refused/export") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "TENANT_NOT_FOUND"


async def test_a_stream_that_fails_later_breaks_the_connection(http: ClientSession) -> None:
    """Half an archive must not look like a whole one."""
    async with http.get("/admin/tenants/broken/export") as response:
        assert response.status == 200
        with pytest.raises(ClientError):
            await response.read()


async def test_a_client_that_leaves_ends_the_call(http: ClientSession, plane: FakePlane) -> None:
    response = await http.get("/admin/tenants/endless/export")
    await response.content.readexactly(1_000_000)
    assert plane.exports_open == 1
    response.close()
    await eventually(lambda: plane.exports_open == 0)


async def test_an_idle_stream_is_not_read_ahead(http: ClientSession, plane: FakePlane) -> None:
    """A slow reader slows the server down instead of filling the bridge's memory."""
    async with asyncio.timeout(20):
        response = await http.get("/admin/tenants/endless/export")
        assert await response.content.readexactly(10)
        response.close()
    await eventually(lambda: plane.exports_open == 0)
