"""Taking agents' price reports."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server.kernel import wire
from spotplane_server.kernel.db import EVERY_TENANT, Database
from spotplane_server.market import store

# Outside of this an agent's clock is not believed, and the time of receipt counts.
AHEAD: Final = timedelta(minutes=5)
BEHIND: Final = timedelta(hours=24)
MAX_NANOUSD: Final = 100 * 10**9
MAX_PRICES: Final = 1000
MAX_NAME: Final = 64


async def take(db: Database, report: pb.PriceReport, now: datetime) -> None:
    """Remember what is believable; a bad price is dropped and does not fail the report.

    Raises:
        Invalid: No region, or too many prices.
    """
    region = wire.text(report.region, "prices.region", maximum=64, required=True)
    if len(report.spot) > MAX_PRICES or len(report.on_demand) > MAX_PRICES:
        raise wire.out_of_range("prices", f"at most {MAX_PRICES} of a kind")
    observed_at = _believable(wire.from_timestamp(report.observed_at), now)
    spot = [
        store.SpotPrice(p.instance_type, p.az, p.price_nanousd_per_hour)
        for p in report.spot
        if _name(p.instance_type) and _name(p.az) and 0 < p.price_nanousd_per_hour <= MAX_NANOUSD
    ]
    on_demand = {
        p.instance_type: p.price_nanousd_per_hour
        for p in report.on_demand
        if _name(p.instance_type) and 0 < p.price_nanousd_per_hour <= MAX_NANOUSD
    }
    async with db.transaction(EVERY_TENANT) as conn:
        if spot:
            await store.put_spot_prices(conn, region, spot, observed_at=observed_at, now=now)
        if on_demand:
            await store.put_on_demand_prices(conn, region, on_demand, observed_at=observed_at)


def _name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME and text.isprintable()


def _believable(at: datetime, now: datetime) -> datetime:
    return at if now - BEHIND <= at <= now + AHEAD else now
