"""The one way in for usage records, whoever brings them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane.v1 import usage_pb2 as pb

from spotplane_server.kernel.db.database import Database
from spotplane_server.kernel.jobs.pacer import Pacer
from spotplane_server.kernel.module import AppContext
from spotplane_server.kernel.ratelimit.limiter import RateLimiter
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage.dead_letters import Sender
from spotplane_server.usage.fair_semaphore import FairSemaphore
from spotplane_server.usage.ingest import Result, ingest
from spotplane_server.usage.rules import AcceptedWindow

# Of hints that records were taken, and the least time between two of them: records come in far more
# often than anybody needs to be told of.
TOPIC: Final = "usage"
PACE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Intake:
    """Stores batches, each tenant in its turn.

    Attributes:
        db: The database.
        limits: Where tokens are charged.
        slots: Shared by everything in this process that stores usage.
        window: How far from now a record's time may lie.
        taken: Hinted at whenever records came in.
    """

    db: Database
    limits: RateLimiter
    slots: FairSemaphore
    window: AcceptedWindow
    taken: Pacer

    @classmethod
    def of(cls, kernel: AppContext) -> Intake:
        """That of a process."""
        config = kernel.config
        late, future = timedelta(days=config.usage_late_days), config.usage_future_minutes
        return cls(
            kernel.db,
            kernel.limits,
            FairSemaphore(config.usage_ingest_slots),
            AcceptedWindow(late, timedelta(minutes=future)),
            Pacer(lambda: kernel.wakeups.signal(TOPIC, ""), PACE_SECONDS),
        )

    async def take(
        self,
        sender: Sender,
        tenant_id: TenantId | None,
        environment_id: UUID | None,
        records: Sequence[pb.UsageRecord],
        now: datetime,
        *,
        atomic: bool = False,
        keep_refused: bool = False,
    ) -> Result:
        """Store a batch once it is its sender's turn; otherwise as `ingest`.

        ``keep_refused`` makes dead letters of what is refused.
        """
        async with self.slots.acquire(str(tenant_id or sender.id)):
            result = await ingest(
                self.db,
                tenant_id,
                environment_id,
                records,
                now,
                window=self.window,
                atomic=atomic,
                limits=self.limits,
                sender=sender if keep_refused else None,
            )
        self.taken.hint()
        return result
