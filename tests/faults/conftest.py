"""Fixtures of the tests that kill servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc.aio
import pytest

from tests.faults.process import ServerProcess, spawned
from tests.support.fleet import Calls, Fleet, simulated
from tests.support.plane import Plane, Tenant, running


@dataclass
class Site:
    """A server process, a fleet of SDK agents on it, and a look into the database."""

    server: ServerProcess
    fleet: Fleet
    tenant: Tenant
    sql: asyncpg.Connection[asyncpg.Record]
    database_url: str

    async def calls(self) -> Calls:
        """What an operator asks, on a channel that knows no earlier process."""
        return Calls(grpc.aio.insecure_channel(self.server.target), self.tenant)


async def _tenant(database_url: str) -> Tenant:
    async with running(database_url) as plane:
        made: Plane = plane
        return await made.tenant()


@pytest.fixture
async def site(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """All of it, running."""
    tenant = await _tenant(database_url)
    sql = await asyncpg.connect(database_url)
    async with (
        spawned(database_url, tmp_path) as server,
        simulated(tmp_path / "instances", server.target, tenant) as fleet,
    ):
        yield Site(server, fleet, tenant, sql, database_url)
    await sql.close()
