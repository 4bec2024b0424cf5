"""Builds the feature."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from spotplane.v1 import decision_pb2_grpc

from spotplane_server.agents.ledger import Ledger
from spotplane_server.agents.sessions import AGENTS_TOPIC
from spotplane_server.decisions.jobs import SessionRetention
from spotplane_server.decisions.loop import DecisionLoop
from spotplane_server.decisions.panel import Panel
from spotplane_server.decisions.service import DecisionService
from spotplane_server.decisions.sessions import Sessions
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
