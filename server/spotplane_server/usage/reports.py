"""Taking usage that agents report on their streams."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server.agents.sessions.stream import Origin
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Invalid, Violation
from spotplane_server.usage.dead_letters import Sender
from spotplane_server.usage.intake import Intake

MAX_RECORDS: Final = 1000
MAX_TOLD: Final = 50


@dataclass(frozen=True, slots=True)
class UsageReports:
    """Stores what agents report."""

    intake: Intake

    async def on_report(self, origin: Origin, report: pb.UsageReport, now: datetime) -> None:
        """Store what can be stored; what cannot is kept as dead letters and told to the agent.

        The agent forgets the report either way.

        Raises:
            Invalid: Some records were refused, or there are too many.
        """
        if len(report.records) > MAX_RECORDS:
            raise wire.out_of_range("usage.records", f"at most {MAX_RECORDS} records")
        result = await self.intake.take(
            Sender("agent", str(origin.agent_id)),
            origin.tenant_id,
            origin.environment_id,
            report.records,
            now,
            keep_refused=True,
        )
        if result.errors:
            raise Invalid(
                f"{result.rejected} of {len(report.records)} records were refused",
                details=[
                    Violation(f"usage.records[{e.index}].{e.field}", f"{e.code}: {e.description}")
                    for e in result.errors[:MAX_TOLD]
                ],
            )
