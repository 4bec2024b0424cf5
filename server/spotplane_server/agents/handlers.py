"""What all handlers of AgentService work with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.polling.heartbeats import ConfirmGone
from spotplane_server.agents.registration import BindReplica
from spotplane_server.agents.sessions.registry import Sessions
from spotplane_server.agents.sessions.stream import AgentStream, ReportHandler
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.request_context import TenantId


class EndReplicas(Protocol):
    """Marks all live replicas of an agent as terminated."""

    async def __call__(
        self, conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime
    ) -> None:
        """Do so in a transaction that holds the agent's row."""


@dataclass(frozen=True, slots=True)
class Standby:
    """What the features above do about replicas and rescues.

    Attributes:
        bind: Binds an instance to the replica that it was launched for.
        end_all: Ends an agent's live replicas.
        confirm_gone: Notes that an instance which does not serve is gone.
        lost: Hears that the one that serves is gone: a notice come true.
    """

    bind: BindReplica
    end_all: EndReplicas
    confirm_gone: ConfirmGone
    lost: ReportHandler


class Handlers:
    """The common part of AgentService's handlers."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tokens: PageTokens,
        sessions: Sessions,
        commands: Ledger,
        stream: AgentStream,
        standby: Standby,
        *,
        offline_after: timedelta,
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._sessions = sessions
        self._ledger = commands
        self._stream = stream
        self._standby = standby
        self._offline_after = offline_after
