"""Price reports of agents, by stream and by call, brought into one form."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane.v1 import agent_stream_pb2
from spotplane.v1 import market_pb2 as pb

from spotplane_server.agents.errors import AgentNotFound
from spotplane_server.agents.sessions.stream import Origin
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import Database, Scope
from spotplane_server.kernel.errors import Invalid
from spotplane_server.market import queries as store
from spotplane_server.market.queries import Reporting
from spotplane_server.prices.reports import PriceReports, Report, Reporter, Taken, Told
from spotplane_server.prices.rules import Source

MAX_PRICES: Final = 1000


class AgentsPrices:
    """Takes agents' price reports, whichever way they come."""

    def __init__(self, db: Database, reports: PriceReports) -> None:
        self._db = db
        self._reports = reports

    async def on_report(
        self, origin: Origin, report: agent_stream_pb2.PriceReport, now: datetime
    ) -> None:
        """Take a report from a stream.

        Raises:
            Invalid: No region, or too many prices. AgentNotFound.
        """
        region = wire.text(report.region, "prices.region", maximum=64, required=True)
        _hold(report.spot, report.on_demand)
        seen = wire.from_timestamp(report.observed_at)
        told = Report(
            region,
            [Told(p.instance_type, p.az, p.price_nanousd_per_hour, seen) for p in report.spot],
            [Told(p.instance_type, None, p.price_nanousd_per_hour, seen) for p in report.on_demand],
        )
        found = await self._reporter(origin.tenant_id, origin.agent_id, origin.instance_id)
        await self._reports.take(_reporter(found, origin.agent_id), told, now)

    async def report(
        self, scope: Scope, agent_id: UUID, request: pb.ReportPricesRequest, now: datetime
    ) -> Taken:
        """Take a report from a call.

        Raises:
            Invalid: A name too long, too many prices, or no region anywhere. AgentNotFound.
        """
        named = wire.optional_text(request, "instance_id", maximum=128) or None
        submission = wire.optional_text(request, "submission_id", maximum=128) or None
        region = wire.optional_text(request, "region", maximum=64)
        _hold(request.spot, request.on_demand)
        found = await self._reporter(scope, agent_id, named)
        region = region or found.region
        if not region:
            raise Invalid("region is required: the agent has none", field="region")
        told = Report(region, _spot(request, found), _on_demand(request, found), submission)
        return await self._reports.take(_reporter(found, agent_id), told, now)

    async def _reporter(self, scope: Scope, agent_id: UUID, named: str | None) -> Reporting:
        async with self._db.connection(scope) as conn:
            found = await store.find_reporter(conn, agent_id, named)
        if found is None:
            raise AgentNotFound
        return found


def _reporter(found: Reporting, agent_id: UUID) -> Reporter:
    return Reporter(
        found.tenant_id,
        agent_id,
        found.instance_id,
        found.instance_type,
        found.pool_id,
        source_of(found),
    )


def source_of(found: Reporting) -> Source:
    """The part of the fleet that an instance plays; a role it has left tells nothing."""
    if found.status == "running_primary":
        return "primary"
    if found.status in ("running_replica", "promoting", "launching") and found.replica is not None:
        return "replica-manual" if found.replica == "manual" else "replica-automatic"
    return "unknown"


def _spot(request: pb.ReportPricesRequest, found: Reporting) -> list[Told]:
    """The pools' prices, and those told beside the list of pools that the list lacks."""
    kind = _own_type(request, found)
    told = [_pool_price(price, request, kind) for price in request.spot]
    beside = []
    if request.HasField("current"):
        own = pb.ReportPricesRequest.SpotPrice(
            pool_id=request.pool_id or ("" if request.az else found.pool_id or "")
        )
        own.MergeFrom(request.current)
        beside.append(_pool_price(own, request, kind))
    if request.HasField("cheapest"):
        beside.append(_pool_price(request.cheapest, request, kind))
    for one in beside:
        if (one.instance_type, one.az) not in {(t.instance_type, t.az) for t in told}:
            told.append(one)
    return told


def _on_demand(request: pb.ReportPricesRequest, found: Reporting) -> list[Told]:
    kind = _own_type(request, found)
    return [
        Told(price.instance_type or kind, None, price.price_nanousd, _seen(price, request))
        for price in request.on_demand
    ]


def _pool_price(
    price: pb.ReportPricesRequest.SpotPrice, request: pb.ReportPricesRequest, kind: str
) -> Told:
    """Type and zone: the price's own words, else its pool's id, else the report's."""
    instance_type, _, az = price.pool_id.rpartition(".")
    return Told(
        price.instance_type or instance_type or kind,
        price.az or az or ("" if price.pool_id else request.az),
        price.price_nanousd,
        _seen(price, request),
    )


def _own_type(request: pb.ReportPricesRequest, found: Reporting) -> str:
    return request.instance_type or found.instance_type or ""


def _seen(
    price: pb.ReportPricesRequest.SpotPrice | pb.ReportPricesRequest.OnDemandPrice,
    request: pb.ReportPricesRequest,
) -> datetime | None:
    if price.HasField("observed_at"):
        return wire.from_timestamp(price.observed_at)
    return wire.from_timestamp(request.observed_at) if request.HasField("observed_at") else None


def _hold(*lists: Sequence[object]) -> None:
    if any(len(prices) > MAX_PRICES for prices in lists):
        raise wire.out_of_range("prices", f"at most {MAX_PRICES} of a kind")
