"""Builds the feature."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
from spotplane.v1 import decision_pb2_grpc

from spotplane_server.agents.ledger import Ledger
from spotplane_server.agents.sessions import AGENTS_TOPIC
from spotplane_server.decisions import sessions_store
from spotplane_server.decisions.jobs import SessionRetention
from spotplane_server.decisions.loop import DecisionLoop
from spotplane_server.decisions.panel import Panel
from spotplane_server.decisions.service import DecisionService
from spotplane_server.decisions.sessions import Sessions
from spotplane_server.kernel.db import AWAY, EVERY_TENANT, Database
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.parts import Kernel, Parts
from spotplane_server.kernel.retention import Rule

RETENTION: Final = (Rule("decisions", "decided_at", timedelta(days=30)),)


def assemble(kernel: Kernel) -> Parts:
    """Build the feature's service, jobs, and what keeps its engine in line."""
    db, clock = kernel.db, kernel.clock
    # It only issues: what commands do when they are done is not its concern.
    ledger = Ledger(db, kernel.wakeups)
    panel = Panel(db, clock, kernel.wakeups, kernel.config.decision_engine)

    def changed(agent_id: UUID) -> None:
        kernel.wakeups.signal(AGENTS_TOPIC, str(agent_id))

    service = DecisionService(db, clock, panel, Sessions(db, clock, panel), ledger)
    return Parts(
        services=[(decision_pb2_grpc.add_DecisionServiceServicer_to_server, service)],
        jobs=[DecisionLoop(db, panel, ledger, changed), SessionRetention(db)],
        background=[panel.run],
        retention=RETENTION,
    )


async def engine_works(db: Database) -> bool:
    """Whether the engine that should decide does; False while the database does not say."""
    try:
        async with db.read(EVERY_TENANT) as conn:
            state = await sessions_store.read_state(conn)
    except (DomainError, asyncpg.PostgresError, *AWAY):
        return False
    return not state.active_fallback
