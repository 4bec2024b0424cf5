"""Builds the feature."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
import structlog
from spotplane.v1 import decision_pb2_grpc

from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.sessions.registry import AGENTS_TOPIC
from spotplane_server.decisions import engine_uploads_store
from spotplane_server.decisions.confined import worker
from spotplane_server.decisions.engine_registry import Panel
from spotplane_server.decisions.engine_uploads import Sessions
from spotplane_server.decisions.jobs import SessionRetention
from spotplane_server.decisions.loop import DecisionLoop
from spotplane_server.decisions.service import DecisionService
from spotplane_server.decisions.validation import EngineFault
from spotplane_server.kernel.db.database import ALL_TENANTS, CONNECTION_ERRORS, Database
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.jobs.retention import Rule
from spotplane_server.kernel.module import AppContext, FeatureModule

log = structlog.get_logger(__name__)

RETENTION: Final = (Rule("decisions", "decided_at", timedelta(days=30)),)


def build_panel(kernel: AppContext) -> Panel:
    """Build the holder of the engine that decides in this process.

    Raises:
        EngineMissing: The settings name an engine that is not installed.
    """
    return Panel(kernel.db, kernel.clock, kernel.wakeups, kernel.config.decision_engine)


def assemble(kernel: AppContext, panel: Panel) -> FeatureModule:
    """Build the feature's service, jobs, and what keeps its engine in line."""
    db, clock = kernel.db, kernel.clock
    # It only issues: what commands do when they are done is not its concern.
    ledger = Ledger(db, kernel.wakeups)

    def changed(agent_id: UUID) -> None:
        kernel.wakeups.signal(AGENTS_TOPIC, str(agent_id))

    service = DecisionService(db, clock, panel, Sessions(db, clock, panel), ledger)
    return FeatureModule(
        services=[(decision_pb2_grpc.add_DecisionServiceServicer_to_server, service)],
        jobs=[DecisionLoop(db, panel, ledger, changed), SessionRetention(db)],
        background=[panel.run],
        retention=RETENTION,
    )


async def uploads_confined() -> bool:
    """Whether this machine's kernel confines the processes that evaluate uploads.

    Tried once in the life of this process, which takes a fraction of a second.
    """
    try:
        return (await asyncio.to_thread(worker.probe)).confined
    except (EngineFault, OSError):
        log.warning("confinement_not_tried", exc_info=True)
        return False


async def engine_works(db: Database) -> bool:
    """Whether the engine that should decide does; False while the database does not say."""
    try:
        async with db.connection(ALL_TENANTS) as conn:
            state = await engine_uploads_store.read_state(conn)
    except (DomainError, asyncpg.PostgresError, *CONNECTION_ERRORS):
        return False
    return not state.active_fallback
