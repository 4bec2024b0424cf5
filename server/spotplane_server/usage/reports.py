"""Taking usage that agents report on their streams."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server.agents.stream import Origin
from spotplane_server.kernel import wire
from spotplane_server.kernel.db import Database
from spotplane_server.kernel.errors import Invalid, Violation
from spotplane_server.kernel.limits import Limits
from spotplane_server.usage.ingest import ingest
from spotplane_server.usage.rules import AcceptedWindow

MAX_RECORDS: Final = 1000
MAX_TOLD: Final = 50
# Of hints that records were taken, and the least time between two of them.
TOPIC: Final = "usage"
PACE_SECONDS: Final = 1.0


async def take(
    db: Database,
    limits: Limits,
    origin: Origin,
    report: pb.UsageReport,
    now: datetime,
    window: AcceptedWindow,
    taken: Callable[[], None],
) -> None:
    """Store what can be stored; what cannot is told to the agent and never comes again.

    Raises:
        Invalid: Some records were refused, or there are too many.
    """
    if len(report.records) > MAX_RECORDS:
        raise wire.out_of_range("usage.records", f"at most {MAX_RECORDS} records")
    result = await ingest(
        db,
        origin.tenant_id,
        origin.environment_id,
        report.records,
        now,
        window=window,
        limits=limits,
    )
    taken()
    if result.errors:
        raise Invalid(
            f"{result.rejected} of {len(report.records)} records were refused",
            details=[
                Violation(f"usage.records[{e.index}].{e.field}", f"{e.code}: {e.description}")
                for e in result.errors[:MAX_TOLD]
            ],
        )
