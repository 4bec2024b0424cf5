"""Sessions of this process: one per connected instance, fenced by an epoch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import structlog
from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server.agents import convert, errors, store
from spotplane_server.agents import queries as queries_module
from spotplane_server.agents.commands import queries
from spotplane_server.agents.commands import store as store_module
from spotplane_server.agents.commands.service import COMMANDS_TOPIC, Ledger, instance_key
from spotplane_server.agents.sessions import store as sessions_store
from spotplane_server.agents.sessions.session import Session
from spotplane_server.instances import rules as instance_rules
from spotplane_server.instances import store as instances
from spotplane_server.kernel import metrics
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import database
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import Unavailable
from spotplane_server.kernel.jobs.notify import Notifier
from spotplane_server.kernel.request_context import TenantId

log = structlog.get_logger(__name__)

SESSIONS_TOPIC: Final = "sessions"
AGENTS_TOPIC: Final = "agents"
CANCELS_TOPIC: Final = "cancels"

FLUSH_SECONDS: Final = 1.0
# Flushes that fail for so many heartbeats mean that the agents must go to another server.
UNSTORED_BEATS: Final = 3
# What agents need after that to reach another server: their spread, a connection, a registration.
RECONNECT: Final = timedelta(seconds=20)
SWEEP_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 0.5

# What the database raises when it is away, or goes away in the middle of a statement.
TROUBLE: Final = (Unavailable, asyncpg.PostgresError, *database.CONNECTION_ERRORS)


_Take: TypeAlias = Callable[[Any, Any, datetime], Awaitable[None]]


class Sessions:
    """The sessions of this process, their heartbeats, and the wake-ups that concern them."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        wakeups: Notifier,
        ledger: Ledger,
        *,
        server_id: str,
        heartbeat: timedelta,
    ) -> None:
        self._db = db
        self._clock = clock
        self._wakeups = wakeups
        self._ledger = ledger
        self._server_id = server_id
        self._heartbeat = heartbeat
        self._sessions: dict[str, Session] = {}
        self._by_agent: dict[UUID, set[Session]] = {}
        self._beats: dict[Session, sessions_store.Beat] = {}
        self._draining = False
        # Since when flushes have failed without one that succeeded, by the event loop's clock.
        self._failing_since: float | None = None
        self._refusing = False
        wakeups.listen(SESSIONS_TOPIC, self._fence_foreign)
        wakeups.listen(AGENTS_TOPIC, self._fetch_state)
        wakeups.listen(COMMANDS_TOPIC, self._fetch_commands)
        wakeups.listen(CANCELS_TOPIC, self._tell_cancelled)

    def __len__(self) -> int:
        return len(self._sessions)

    @asynccontextmanager
    async def attach(
        self, tenant_id: TenantId, hello: pb.Hello, agent_id: UUID
    ) -> AsyncIterator[Session]:
        """Open a session for the block; the older one of the same instance ends.

        Raises:
            AgentNotFound, InstanceNotFound: Register first. Draining: The server is leaving.
            Unavailable: The server cannot store heartbeats.
        """
        if self._refusing:
            raise database.database_unavailable()
        if self._draining:
            raise errors.Draining("the server is shutting down", retry_after_seconds=1.0)
        session = Session(tenant_id, agent_id, hello.instance_id, self._pace, self._clock.now())
        session.applied_generation = hello.applied_generation
        await self._open(session, hello)
        other = self._sessions.get(session.key)
        if other is not None and other.epoch > session.epoch:
            raise errors.SessionReplaced  # it came later and was quicker
        if other is not None:
            other.end(errors.SessionReplaced())
        self._sessions[session.key] = session
        self._by_agent.setdefault(agent_id, set()).add(session)
        metrics.SESSIONS.set(len(self._sessions))
        # The key carries the epoch, so that the process that holds the newer session ignores it.
        self._wakeups.signal(SESSIONS_TOPIC, f"{session.key}/{session.epoch}")
        try:
            yield session
        finally:
            self._forget(session)

    def beat(self, session: Session, heartbeat: pb.Heartbeat | None = None) -> None:
        """Count a heartbeat, or note the stream's end; it is written with the next flush."""
        if heartbeat is not None:
            metrics.HEARTBEATS.inc()
            session.last_beat_at = self._clock.now()
            session.applied_generation = heartbeat.applied_generation
        self._beats[session] = sessions_store.Beat(
            session.tenant_id,
            session.instance_id,
            session.epoch,
            session.last_beat_at,
            session.applied_generation,
            _percent(heartbeat, "cpu_percent"),
            _percent(heartbeat, "memory_percent"),
            session.closed,
        )

    async def fetch(self, session: Session) -> list[pb.ConnectResponse]:
        """What the stream is to send now: desired state first, then commands.

        An unreachable database only delays it.
        """
        answers: list[pb.ConnectResponse] = []
        try:
            if session.state_due:
                session.state_due = False
                answers += await self._desired(session)
            if session.commands_due:
                session.commands_due = False
                answers += await self._commands(session)
        except Unavailable:
            session.state_due = session.commands_due = True
            await asyncio.sleep(RETRY_SECONDS)
        return answers

    def signal_agent(self, agent_id: UUID) -> None:
        """Have all of an agent's sessions fetch their desired state, wherever they are held."""
        self._wakeups.signal(AGENTS_TOPIC, str(agent_id))

    def telling(self, take: _Take) -> _Take:
        """A report's handler that has the agent's sessions fetch their state when it is done."""

        async def take_and_tell(origin: Any, report: Any, now: datetime) -> None:
            await take(origin, report, now)
            self.signal_agent(origin.agent_id)

        return take_and_tell

    def take_back(self, command: store_module.Command) -> None:
        """Tell the instance, whoever holds its stream, not to begin a command any more.

        Who misses it learns it when it reports: the plane refuses the effect.
        """
        key = instance_key(command.tenant_id, command.instance_id)
        self._wakeups.signal(CANCELS_TOPIC, f"{key}/{command.id}")

    async def run(self) -> None:
        """Flush heartbeats every second until cancelled; send agents away while that fails."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            started = loop.time()
            try:
                # A flush without an answer must not keep the agents here for longer.
                async with asyncio.timeout(self._unstored.total_seconds()):
                    await self.flush()
                    await self._keep_collecting()
            except TROUBLE:
                metrics.HEARTBEAT_FLUSH_FAILURES.inc()
                log.warning("heartbeats_not_flushed", sessions=len(self._beats), exc_info=True)
                self._failing_since = self._failing_since or started
                if loop.time() - self._failing_since >= self._unstored.total_seconds():
                    self._send_away()
            else:
                self._failing_since, self._refusing = None, False

    async def _keep_collecting(self) -> None:
        async with self._db.write(ALL_TENANTS) as conn:
            await sessions_store.keep_collecting(
                conn,
                self._server_id,
                reconnect_within=self._unstored + RECONNECT,
                now=self._clock.now(),
            )

    @property
    def _unstored(self) -> timedelta:
        """For how long heartbeats are acknowledged that cannot be stored."""
        return self._heartbeat * UNSTORED_BEATS

    def _send_away(self) -> None:
        """End all streams, and refuse new ones until a flush succeeds.

        Heartbeats that are acknowledged and not stored make healthy agents look lost to the other
        servers; an agent that is sent away finds one of those.
        """
        self._refusing = True
        if self._sessions:
            log.warning("agents_sent_away", sessions=len(self._sessions))
        for session in list(self._sessions.values()):
            session.end(database.database_unavailable())

    async def sweep(self) -> None:
        """Find commands whose wake-up was lost, in one statement for all sessions."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if not self._sessions:
                continue
            try:
                older_than = self._clock.now() - timedelta(seconds=1)
                async with self._db.connection(ALL_TENANTS) as conn:
                    waiting = await queries.list_waiting(conn, older_than=older_than)
            except TROUBLE:
                continue
            for found in waiting:
                self._fetch_commands(instance_key(found.tenant_id, found.instance_id))

    async def flush(self) -> None:
        """Write all heartbeats since the last flush in one statement; fence who was replaced."""
        if not self._beats:
            return
        beats, self._beats = self._beats, {}
        try:
            async with self._db.connection(ALL_TENANTS) as conn:
                flushed = await sessions_store.flush(conn, list(beats.values()), self._clock.now())
        except BaseException:
            self._beats = beats | self._beats
            raise
        metrics.HEARTBEAT_FLUSHES.inc()
        current = {instance_key(f.tenant_id, f.instance_id): f for f in flushed}
        for session in beats:
            found = current.get(session.key)
            if found is None:
                session.end(errors.SessionReplaced())
            elif found.deleted:
                session.end(errors.AgentNotFound())
            elif found.generation > session.sent_generation:
                session.fetch(state=True)

    async def drain(self) -> None:
        """Send every agent away with a slot of its own to come back at, then end the streams."""
        self._draining = True
        spread = max(1.0, len(self._sessions) / 500)
        for session in list(self._sessions.values()):
            delay = random.uniform(0.1, spread)
            session.say(convert.reconnect(delay, "the server is shutting down"))
            session.end()
        try:
            await self.flush()
        except TROUBLE:
            log.warning("heartbeats_not_flushed", sessions=len(self._beats), exc_info=True)

    def _pace(self) -> timedelta:
        # A tenth of jitter keeps agents that connected together from beating together.
        return self._heartbeat * random.uniform(0.9, 1.1)

    async def _open(self, session: Session, hello: pb.Hello) -> None:
        now = self._clock.now()
        tenant_id, agent_id, instance_id = session.tenant_id, session.agent_id, session.instance_id
        open_ids = [convert.command_id(text) for text in hello.open_command_ids]
        async with self._db.transaction(tenant_id) as conn:
            instance = await instances.find(conn, tenant_id, instance_id)
            if instance is None or instance.agent_id != agent_id:
                raise errors.InstanceNotFound
            session.epoch = await sessions_store.open_session(
                conn,
                tenant_id,
                instance_id,
                agent_id,
                session_id=session.id,
                server_id=self._server_id,
                applied_generation=hello.applied_generation,
                now=now,
            )
            await self._ledger.hand_over(conn, tenant_id, instance_id, session.id, open_ids, now)
            if instance_rules.role(instance.status) == "primary":
                await store.set_status(conn, tenant_id, agent_id, "online", now)

    def _forget(self, session: Session) -> None:
        session.closed = True
        if not session.goodbye:
            self.beat(session)
        else:
            self._beats.pop(session, None)
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
        siblings = self._by_agent.get(session.agent_id, set())
        siblings.discard(session)
        if not siblings:
            self._by_agent.pop(session.agent_id, None)
        metrics.SESSIONS.set(len(self._sessions))

    async def _desired(self, session: Session) -> list[pb.ConnectResponse]:
        async with self._db.connection(session.tenant_id) as conn:
            desired = await queries_module.load_desired(
                conn, session.tenant_id, session.agent_id, session.instance_id
            )
        if desired is None:
            session.end(errors.AgentNotFound())
            return []
        if desired.generation <= session.sent_generation:
            return []
        session.sent_generation = desired.generation
        return [pb.ConnectResponse(desired_state=convert.desired_state(desired))]

    async def _commands(self, session: Session) -> list[pb.ConnectResponse]:
        claimed = await self._ledger.claim(
            session.tenant_id, session.instance_id, session.id, self._clock.now()
        )
        if claimed:
            session.commands_due = True  # there may be more than one claim takes
        return [pb.ConnectResponse(command=convert.delivery(command)) for command in claimed]

    def _fence_foreign(self, key: str) -> None:
        instance, _, epoch = key.rpartition("/")
        session = self._sessions.get(instance)
        if session is not None and session.epoch < int(epoch):
            session.end(errors.SessionReplaced())

    def _tell_cancelled(self, key: str) -> None:
        instance, _, command_id = key.rpartition("/")
        session = self._sessions.get(instance)
        if session is not None:
            session.say(pb.ConnectResponse(command_cancel=pb.CommandCancel(command_id=command_id)))

    def _fetch_state(self, key: str) -> None:
        for session in self._by_agent.get(UUID(key), ()):
            session.fetch(state=True)

    def _fetch_commands(self, key: str) -> None:
        session = self._sessions.get(key)
        if session is not None:
            session.fetch(commands=True)


def _percent(heartbeat: pb.Heartbeat | None, field: str) -> float | None:
    # One number that PostgreSQL refuses would keep everybody's heartbeats from being written.
    value = wire.optional(heartbeat, field) if heartbeat else None
    return value if value is not None and 0 <= value <= 100 else None
