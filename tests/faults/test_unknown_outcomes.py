"""Servers that die or stop in the middle of a call under an idempotency key."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc.aio
import pytest
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc
from spotplane_bench.chaos import (
    ChaosProxy,
    chaos_proxy,
    is_commit,
    postgres_upstream,
    postgres_url,
)
from spotplane_server.kernel.auth import secrets
from spotplane_server.kernel.rpc.idempotency import CLAIM_KEY, COMPLETE_KEY
from spotplane_server.tenants.keys_store import INSERT_KEY

from tests.faults.process import ServerProcess, spawned
from tests.support.eventually import eventually
from tests.support.idempotency import lapse_claims
from tests.support.plane import ADMIN, running

KEY_HASHES = "SELECT key_hash FROM api_keys WHERE name = 'keyed'"
METADATA = (*ADMIN, ("idempotency-key", "create-the-keyed-key"))


@dataclass
class Pair:
    """Two servers on one database; the first, which holds no job's lease, through a proxy."""

    first: ServerProcess
    second: ServerProcess
    proxy: ChaosProxy
    tenant_id: str
    database_url: str

    def at(self, statement: str, act: Callable[[], None]) -> None:
        """Act once, when the first server executes a statement."""
        pending = [act]

        def matches(sql: str) -> bool:
            if sql == statement and pending:
                pending.pop()()
            return False

        self.proxy.lose_answers(1, matches)

    async def create(self, server: ServerProcess) -> str:
        """Create the key through a server; its token."""
        async with grpc.aio.insecure_channel(server.target) as channel:
            issued = await api_key_pb2_grpc.ApiKeyServiceStub(channel).CreateApiKey(
                api_key_pb2.CreateApiKeyRequest(tenant_id=self.tenant_id, name="keyed"),
                metadata=METADATA,
                timeout=20,
            )
        token: str = issued.key
        return token

    async def created(self) -> list[bytes]:
        """Hashes of the keys that were created."""
        conn = await asyncpg.connect(self.database_url)
        try:
            return [row["key_hash"] for row in await conn.fetch(KEY_HASHES)]
        finally:
            await conn.close()


@pytest.fixture
async def pair(database_url: str, tmp_path: Path) -> AsyncIterator[Pair]:
    """Both, serving."""
    async with running(database_url) as plane:
        tenant = await plane.tenant()
    async with (
        chaos_proxy(postgres_upstream(database_url)) as proxy,
        spawned(database_url, tmp_path) as second,
        spawned(postgres_url(database_url, proxy), tmp_path) as first,
    ):
        yield Pair(first, second, proxy, tenant.id, database_url)


async def test_a_repeat_after_a_kill_between_commit_and_answer_has_the_token(pair: Pair) -> None:
    """At once: the key is completed, so no claim has to lapse."""
    completing = False

    def kill_at_commit(sql: str) -> bool:
        nonlocal completing
        if completing and is_commit(sql):
            pair.first.signal(signal.SIGKILL)
        completing = completing or sql == COMPLETE_KEY
        return False

    pair.proxy.lose_answers(1, kill_at_commit)
    with pytest.raises(grpc.aio.AioRpcError):
        await pair.create(pair.first)
    await eventually(pair.created)

    token = await pair.create(pair.second)

    assert await pair.created() == [secrets.hash_of(token)]


@pytest.mark.parametrize("statement", [CLAIM_KEY, INSERT_KEY], ids=["before", "amid"])
async def test_a_server_that_was_stopped_beyond_its_claim_has_no_effect(
    pair: Pair, statement: str
) -> None:
    """Another server has served the repeat meanwhile."""
    stopped = asyncio.Event()

    def stop() -> None:
        pair.first.signal(signal.SIGSTOP)
        stopped.set()

    pair.at(statement, stop)
    late = asyncio.ensure_future(pair.create(pair.first))
    await asyncio.wait_for(stopped.wait(), 20)
    await eventually(lambda: _is_claimed(pair.database_url))
    await lapse_claims(pair.database_url)

    token = await pair.create(pair.second)
    pair.first.signal(signal.SIGCONT)
    with suppress(grpc.aio.AioRpcError):
        # It may find the other server's answer when its own transaction was ended meanwhile.
        assert await late == token

    assert await pair.created() == [secrets.hash_of(token)]


async def _is_claimed(database_url: str) -> bool:
    conn = await asyncpg.connect(database_url)
    try:
        return bool(await conn.fetchval("SELECT count(*) FROM idempotency_keys"))
    finally:
        await conn.close()
