"""Which engine decides in this process: loaded when that changes anywhere, else rolled back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from spotplane_server import events
from spotplane_server.decisions import engine_uploads_store, uploads
from spotplane_server.decisions.circuit_breaker import Judge
from spotplane_server.decisions.engine_runners import Elsewhere, InThread, Kind, Seat
from spotplane_server.decisions.engine_uploads_store import Content, Session
from spotplane_server.decisions.engines import BUILT_IN, installed
from spotplane_server.decisions.engines.remote import PLAIN, SECURE, RemoteEngine
from spotplane_server.decisions.engines.rules import BuiltInRules
from spotplane_server.decisions.errors import MalformedModel
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import database
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.jobs.notify import Notifier

log = structlog.get_logger(__name__)

TOPIC: Final = "engines"
# Within this every process has the engine that is live, whether or not it was woken.
POLL: Final = timedelta(seconds=3)
# A machine under load may be slow once; a model that is bad fails again.
LOADS: Final = 2


class Panel:
    """Keeps the judge's seat in line with what is live.

    Args:
        db: The database.
        clock: For events.
        wakeups: To hear, and tell, of changes.
        base: What decides while no session is live: ``rules``, another built-in engine, the
            address of a remote one, or the name of an installed one.

    Raises:
        EngineMissing: ``base`` names an engine that is not installed.
    """

    def __init__(self, db: Database, clock: Clock, wakeups: Notifier, base: str) -> None:
        self.judge = Judge()
        self._db = db
        self._clock = clock
        self._wakeups = wakeups
        self._base = base
        self._generation = 0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        base_seat(base)  # refuses a name that nobody has, before anything is served
        wakeups.listen(TOPIC, lambda _key: self._changed.set())

    @property
    def generation(self) -> int:
        """Of the engine that is seated; 0 before the first."""
        return self._generation

    async def run(self) -> None:
        """Keep in line until cancelled."""
        try:
            while True:
                self._changed.clear()
                try:
                    await self.refresh()
                except (DomainError, asyncpg.PostgresError, *database.CONNECTION_ERRORS):
                    log.warning("engines_not_refreshed", exc_info=True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL.total_seconds()):
                        await self._changed.wait()
        finally:
            await asyncio.shield(self.judge.seat.close())

    def tell(self) -> None:
        """Have every process look at once; call it after the commit."""
        self._wakeups.signal(TOPIC, "")

    async def refresh(self) -> None:
        """Seat the engine that is live, if it is not the one that sits there."""
        async with self._turn:
            async with self._db.connection(ALL_TENANTS) as conn:
                state = await engine_uploads_store.read_state(conn)
                live = await engine_uploads_store.find_role(conn, "live")
            if state.generation == self._generation:
                return
            try:
                seat = base_seat(self._base) if live is None else await self._load(live)
            except MalformedModel as err:
                if live is not None:
                    await self._roll_back(live, err.message)
                return
            if isinstance(seat, Elsewhere):
                await seat.introduce()
            first, self._generation = self._generation == 0, state.generation
            former = self.judge.put(seat)
            await former.close()
            log.info("engine_seated", engine=seat.name, version=seat.version, kind=seat.kind)
            if first:
                await self._announce_start(seat)

    async def _load(self, live: Session) -> Seat:
        async with self._db.connection(ALL_TENANTS) as conn:
            files = [file async for file in engine_uploads_store.contents(conn, live.id)]
        for last in (*[False] * (LOADS - 1), True):
            try:
                engine = await uploads.build(live.name, live.version, files)
            except MalformedModel:
                if last:
                    raise
            else:
                return InThread(kind_of(files), engine, live.id)
        raise AssertionError("unreachable")

    async def _roll_back(self, live: Session, why: str) -> None:
        """Give the place of a session that does not load here to the fallback, everywhere."""
        now = self._clock.now()
        async with self._db.transaction(ALL_TENANTS) as conn:
            await engine_uploads_store.lock_state(conn)
            still = await engine_uploads_store.find_role(conn, "live")
            if still is None or still.id != live.id:
                return
            fallback = await engine_uploads_store.find_role(conn, "fallback")
            await engine_uploads_store.set_roles(conn, fallback.id if fallback else None, None, now)
            await engine_uploads_store.set_fault(conn, live.id, why[:1000])
            told = events.Event(
                "ml_models.rollback",
                str(live.id),
                {"session_id": str(live.id), "name": live.name, "reason": why[:300]},
            )
            await events.append(conn, told, now)
        log.warning("engine_rolled_back", session_id=str(live.id), reason=why)
        self._changed.set()
        self.tell()

    async def _announce_start(self, seat: Seat) -> None:
        data = {"name": seat.name, "version": seat.version, "type": seat.kind}
        told = events.Event("decision_engine.loaded", seat.name, data)
        async with self._db.connection(ALL_TENANTS) as conn:
            await events.append(conn, told, self._clock.now())


def kind_of(files: list[Content]) -> Kind:
    """What a session's engine is called: a model as soon as one file is."""
    return "onnx" if any(file.format == "onnx" for file in files) else "cel"


def base_seat(base: str) -> Seat:
    """The engine that the configuration names.

    Raises:
        EngineMissing: It is not installed.
    """
    if base == BuiltInRules.name:
        return InThread("rules", BuiltInRules())
    if base.startswith((PLAIN, SECURE)):
        return Elsewhere(RemoteEngine(base))
    if base in BUILT_IN:
        return InThread("built_in", BUILT_IN[base]())
    return InThread("installed", installed.load(base))
