"""States of agents, instances and commands, under any interleaving of messages, servers and cuts.

Two ledgers on one database play two servers. After every step, committed or cut, the rules that
everything rests on must hold: at most one primary, one effect a command, and final is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, TypeAlias
from uuid import UUID, uuid4

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from spotplane_server.agents import access, primary, registration, store
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.polling import commands as commands_module
from spotplane_server.agents.polling import heartbeats
from spotplane_server.agents.polling.heartbeats import Beat
from spotplane_server.agents.switch_requests import Asked, Target
from spotplane_server.instances.store import Machine, Said
from spotplane_server.kernel.db.database import (
    ALL_TENANTS,
    Conn,
    Database,
    retry_on_serialization_failure,
)
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.jobs.notify import Notifier
from spotplane_server.kernel.request_context import TenantId

from tests.conftest import _CREATE, _execute
from tests.support.fleet import REGION, TYPE, ZONES

INSTANCES: Final = ("i-1", "i-2", "i-3")
FINAL: Final = {"completed", "failed", "cancelled", "expired"}
OFFLINE_AFTER: Final = timedelta(seconds=120)
PRIORITIES: Final = {"AUTOMATIC": 25, "MANUAL": 75, "EMERGENCY": 100}

Step: TypeAlias = Callable[[Conn], Awaitable[None]]

instances = st.sampled_from(INSTANCES)
servers = st.sampled_from((0, 1))
# Whether the transaction is cut before its commit, as by a crash.
cuts = st.booleans()


class Cut(Exception):
    """The process died before it could commit."""


class World:
    """A tenant's one agent, and two servers that speak for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, db: Database, url: str) -> None:
        self.loop = loop
        self.db = db
        self.tenant_id = TenantId(uuid4())
        self.now = datetime.now(UTC)
        self.effects: list[UUID] = []
        self.ledgers = [Ledger(db, Notifier(url, str(n))) for n in range(2)]
        for ledger in self.ledgers:
            ledger.on_final({"switch": primary.on_switch})
        self.final: dict[UUID, str] = {}
        self.agent_id: UUID | None = None

    def run(self, work: Awaitable[Any]) -> Any:
        """Run to its end."""
        return self.loop.run_until_complete(work)

    def step(self, step: Step, *, cut: bool = False) -> None:
        """Run one message's transaction; a refusal and a cut leave nothing behind."""

        async def once() -> None:
            async with self.db.transaction(self.tenant_id) as conn:
                await step(conn)
                if cut:
                    raise Cut

        async def tried() -> None:
            with suppress(DomainError, Cut):
                await retry_on_serialization_failure(once)

        self.run(tried())

    async def register(self, conn: Conn, instance_id: str) -> None:
        """An instance registers under the agent's name."""
        machine = Machine(instance_id, TYPE, REGION, ZONES[0], "ondemand", None)
        done = await registration.register(
            conn,
            self.tenant_id,
            registration.Registration("chat", machine, None, None, False),
            bind_replica=_no_replica,
            offline_after=OFFLINE_AFTER,
            now=self.now,
        )
        assert self.agent_id in {None, done.agent_id}

    async def open_agent(self) -> None:
        """Make the tenant, and its agent on the first instance."""
        async with self.db.transaction(ALL_TENANTS) as conn:
            await conn.execute(
                "INSERT INTO tenants (id, name, email, created_at, updated_at)"
                " VALUES ($1, 'T', $2, now(), now())",
                self.tenant_id,
                f"{self.tenant_id}@example.com",
            )
        async with self.db.transaction(self.tenant_id) as conn:
            await self.register(conn, "i-1")
            self.agent_id = await conn.fetchval("SELECT id FROM agents")


async def _no_replica(*_args: Any) -> bool:
    return False


async def _gone(*_args: Any) -> None:
    return None


class States(RuleBasedStateMachine):
    """What may happen to an agent, in any order and as often as it likes."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    db: ClassVar[Database]
    url: ClassVar[str]
    world: World

    @initialize()
    def begin(self) -> None:
        self.world = World(self.loop, self.db, self.url)
        self.world.run(self.world.open_agent())

    @rule(instance_id=instances, cut=cuts)
    def register(self, instance_id: str, cut: bool) -> None:
        self.world.step(lambda conn: self.world.register(conn, instance_id), cut=cut)

    @rule(
        instance_id=st.one_of(st.none(), instances),
        word=st.sampled_from(("online", "offline", "switching")),
        cut=cuts,
    )
    def heartbeat(self, instance_id: str | None, word: str, cut: bool) -> None:
        beat = Beat(word, instance_id, None, Said(""), (), (None, None))

        async def take(conn: Conn) -> None:
            assert self.world.agent_id is not None
            await heartbeats.take(
                conn,
                self.world.agent_id,
                beat,
                confirm_gone=_gone,
                offline_after=OFFLINE_AFTER,
                now=self.world.now,
            )

        self.world.step(take, cut=cut)

    @rule(
        server=servers,
        trigger=st.sampled_from(("AUTOMATIC", "MANUAL", "EMERGENCY")),
        kind=st.sampled_from((None, "g5.xlarge", "g5.2xlarge")),
        cut=cuts,
    )
    def queue(self, server: int, trigger: Any, kind: str | None, cut: bool) -> None:
        async def queue(conn: Conn) -> None:
            locked = await self.locked(conn)
            await self.world.ledgers[server].queue_switch(
                conn,
                locked,
                Target("ondemand", None, kind),
                Asked(trigger, PRIORITIES[trigger], "test"),
                self.world.now,
            )

        self.world.step(queue, cut=cut)

    @rule(
        server=servers,
        instance_id=st.one_of(st.none(), instances),
        dialect=st.sampled_from(("loop", "action")),
        cut=cuts,
    )
    def poll(self, server: int, instance_id: str | None, dialect: Any, cut: bool) -> None:
        async def lease(conn: Conn) -> None:
            locked = await self.locked(conn)
            poll = await commands_module.load(
                conn, locked.id, instance_id=instance_id, address=None, now=self.world.now
            )
            assert poll is not None
            await self.world.ledgers[server].lease(conn, poll, instance_id, dialect, self.world.now)

        self.world.step(lease, cut=cut)

    @rule(
        server=servers,
        success=st.booleans(),
        launched=st.one_of(st.none(), instances),
        pick=st.integers(0, 9),
        cut=cuts,
    )
    def complete(
        self, server: int, success: bool, launched: str | None, pick: int, cut: bool
    ) -> None:
        async def complete(conn: Conn) -> None:
            locked = await self.locked(conn)
            known = await conn.fetch("SELECT id FROM agent_commands ORDER BY created_at, id")
            if not known:
                return
            await self.world.ledgers[server].complete(
                conn,
                self.world.tenant_id,
                locked.id,
                known[pick % len(known)]["id"],
                success=success,
                message="",
                result={"instance_id": launched} if launched else {},
                now=self.world.now,
            )

        self.world.step(complete, cut=cut)

    @rule(server=servers, enabled=st.booleans(), cut=cuts)
    def toggle(self, server: int, enabled: bool, cut: bool) -> None:
        async def toggle(conn: Conn) -> None:
            locked = await self.locked(conn)
            config = replace(locked.config, enabled=enabled)
            await store.update_config(conn, self.world.tenant_id, locked.id, config, self.world.now)
            await self.world.ledgers[server].tidy(
                conn, self.world.tenant_id, locked.id, self.world.now
            )

        self.world.step(toggle, cut=cut)

    @rule(server=servers, seconds=st.sampled_from((5, 130, 301, 901, 3700)), cut=cuts)
    def time_passes(self, server: int, seconds: int, cut: bool) -> None:
        self.world.now += timedelta(seconds=seconds)

        async def tidy(conn: Conn) -> None:
            locked = await self.locked(conn)
            await self.world.ledgers[server].tidy(
                conn, self.world.tenant_id, locked.id, self.world.now
            )

        self.world.step(tidy, cut=cut)

    @rule(instance_id=instances, other=instances)
    def both_at_once(self, instance_id: str, other: str) -> None:
        """Two servers take two registrations and a tidying at the same time."""
        world = self.world

        async def one(step: Step) -> None:
            async def once() -> None:
                async with world.db.transaction(world.tenant_id) as conn:
                    await step(conn)

            await retry_on_serialization_failure(once)

        async def all_of_them() -> None:
            await asyncio.gather(
                one(lambda conn: world.register(conn, instance_id)),
                one(lambda conn: world.register(conn, other)),
            )

        world.run(all_of_them())

    async def locked(self, conn: Conn) -> store.Locked:
        assert self.world.agent_id is not None
        return await access.lock(conn, self.world.agent_id)

    @invariant()
    def rules_hold(self) -> None:
        if getattr(self, "world", None) is not None:
            self.world.run(self._check())

    async def _check(self) -> None:
        world = self.world
        async with world.db.connection(world.tenant_id) as conn:
            primaries = await conn.fetchval(
                "SELECT count(*) FROM instances WHERE status = 'running_primary'"
            )
            commands = await conn.fetch("SELECT id, type, status FROM agent_commands")
            twice = await conn.fetch(
                "SELECT command_id FROM switches WHERE command_id IS NOT NULL"
                " GROUP BY command_id HAVING count(*) > 1"
            )
            ends = await conn.fetch(
                "SELECT command_id FROM agent_command_events"
                " WHERE kind IN ('completed', 'failed', 'cancelled', 'expired')"
                " GROUP BY command_id HAVING count(*) > 1"
            )
            agents = await conn.fetchval("SELECT count(*) FROM agents")
            shown = await conn.fetchrow("SELECT status, enabled FROM agents")
        assert primaries == 1
        assert shown is not None
        assert agents == 1
        assert not twice, "a command took effect twice"
        assert not ends, "a command ended twice"
        assert shown["enabled"] or shown["status"] in {"disabled", "offline"}
        switches = [row for row in commands if row["type"] == "switch"]
        assert len([row for row in switches if row["status"] not in FINAL]) <= 1
        for row in commands:
            was = world.final.get(row["id"])
            assert was in {None, row["status"]}, "a final state changed"
            if row["status"] in FINAL:
                world.final[row["id"]] = row["status"]


def test_rules_hold_whatever_happens(postgres: Any) -> None:
    """Any order of messages, repeats, cuts and times on two servers."""
    name = f"t{uuid4().hex}"
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_execute(postgres.get_uri(), _CREATE.format(name)))
    url = postgres.get_uri(name)
    db = loop.run_until_complete(Database.open(url, size=4))
    try:
        bound: Any = type("Bound", (States,), {"loop": loop, "db": db, "url": url})
        case = bound.TestCase
        case.settings = settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        case().runTest()
    finally:
        loop.run_until_complete(db.close())
        loop.run_until_complete(
            _execute(postgres.get_uri(), f'DROP DATABASE "{name}" WITH (FORCE)')
        )
        loop.close()
