"""Reports of an agent: usage, prices, notices, replica states and terminations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1.usage_pb2 import UsageRecord

from spotplane_agents.commands import struct_of
from spotplane_agents.identity import Identity, split_pool_id
from spotplane_agents.notices import CloudNotice, NoticeKind, stamp
from spotplane_agents.usage import UsageBuffer

PRICES_PER_REPORT: Final = 1000


class Reporter(ABC):
    """The reports of one instance. Each call returns once its report is on disk."""

    def __init__(self, identity: Identity) -> None:
        self.identity: Identity = identity
        self._usage = UsageBuffer(self.append)

    @property
    @abstractmethod
    def replica_id(self) -> str | None:
        """UUID of the replica this instance is bound to."""

    @abstractmethod
    async def append(self, report: pb.Report) -> None:
        """Store a report on disk and send it as soon as there is a session.

        Reports about commands and instances wait until a full disk accepts them.

        Raises:
            SpoolFull: There is no room for usage or prices.
            StateUnavailable: The disk rejects usage or prices.
            StateClosed: The agent has ended.
        """

    def usage(
        self,
        request_id: str,
        *,
        prompt_tokens: int,
        completion_tokens: int,
        timestamp: datetime | None = None,
        record_metadata: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Record one served request; it is on disk within a second, or after ``flush``.

        Args:
            request_id: Unique within the tenant; repeating it has no effect.
            prompt_tokens: Tokens of the prompt.
            completion_tokens: Tokens of the completion.
            timestamp: Time of the request, by this machine's clock; default now. It is sent as the
                server's time, which differs when this clock is wrong by 2 s or more.
            record_metadata: Free members, at most 16 KiB as JSON.
            fields: Further fields of ``UsageRecord``, e.g. ``model``, ``latency_ms``.

        Raises:
            SpoolFull: Usage cannot be stored at present.
            ValueError: There is no such field, or a value does not fit it.
        """
        at = timestamp or datetime.now(UTC)
        fields.setdefault("node_id", self.identity.instance_id)
        try:
            record = UsageRecord(
                request_id=request_id,
                timestamp=at.isoformat(),
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                metadata=struct_of(record_metadata) if record_metadata else None,
                **fields,
            )
        except TypeError as error:
            raise ValueError(str(error)) from error
        self._usage.add(record)

    async def flush(self) -> None:
        """Write all usage recorded so far to disk."""
        await self._usage.flush()

    async def report_prices(
        self,
        *,
        spot: Mapping[str, int] | None = None,
        on_demand: Mapping[str, int] | None = None,
        region: str | None = None,
        observed_at: datetime | None = None,
    ) -> None:
        """Report prices in nano-USD per hour: spot by pool id, on-demand by instance type.

        ``observed_at`` is by this machine's clock, like the timestamps of usage; default now.

        Raises:
            SpoolFull: Prices cannot be stored at present.
            ValueError: A pool id is not ``<type>.<zone>``.
        """
        spots = [_spot_price(pool_id, price) for pool_id, price in (spot or {}).items()]
        demands = [
            pb.PriceReport.OnDemandPrice(instance_type=name, price_nanousd_per_hour=price)
            for name, price in (on_demand or {}).items()
        ]
        at = stamp(observed_at or datetime.now(UTC))
        for start in range(0, max(len(spots), len(demands)), PRICES_PER_REPORT):
            part = slice(start, start + PRICES_PER_REPORT)
            report = pb.PriceReport(
                region=region or self.identity.region,
                observed_at=at,
                spot=spots[part],
                on_demand=demands[part],
            )
            await self.append(pb.Report(prices=report))

    async def notice(
        self, kind: NoticeKind, *, deadline: datetime | None = None, instance_id: str | None = None
    ) -> None:
        """Report a cloud's notice for an instance; default this one."""
        seen = CloudNotice(kind, datetime.now(UTC), deadline)
        message = seen.message(instance_id or self.identity.instance_id)
        await self.append(pb.Report(notice=message))

    async def replica_status(
        self,
        status: str,
        *,
        replica_id: str | None = None,
        instance_id: str | None = None,
        sync_progress: float | None = None,
        message: str = "",
    ) -> None:
        """Report a replica's state; default the replica of this instance.

        Raises:
            ValueError: This instance is no replica, and none is named.
        """
        if replica_id is None:
            replica_id, instance_id = self.replica_id, instance_id or self.identity.instance_id
        if replica_id is None:
            raise ValueError("this instance is no replica")
        report = pb.ReplicaReport(
            replica_id=replica_id,
            instance_id=instance_id or "",
            status=status,
            sync_progress=sync_progress,
            message=message[:2000],
        )
        await self.append(pb.Report(replica=report))

    async def terminated(self, instance_id: str, reason: str = "") -> None:
        """Report that an instance is terminated."""
        report = pb.TerminationReport(
            instance_id=instance_id, terminated_at=stamp(datetime.now(UTC)), reason=reason[:500]
        )
        await self.append(pb.Report(termination=report))


def _spot_price(pool_id: str, price_nanousd: int) -> pb.PriceReport.SpotPrice:
    instance_type, az = split_pool_id(pool_id)
    return pb.PriceReport.SpotPrice(
        instance_type=instance_type, az=az, price_nanousd_per_hour=price_nanousd
    )
