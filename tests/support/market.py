"""Prices for agents' tests, as the market keeps them."""

from __future__ import annotations

from typing import Final

from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.support.fleet import REGION, TYPE, ZONES
from tests.support.plane import Plane

PUT_POOL: Final = """
    INSERT INTO pools (id, instance_type, region, az, price_nanousd, price_observed_at, created_at)
    VALUES ($1 || '.' || $2, $1, $3, $2, $4, $5, $5)
"""
PUT_ON_DEMAND: Final = """
    INSERT INTO on_demand_prices (region, instance_type, price_nanousd, observed_at)
    VALUES ($1, $2, $3, $4)
"""


async def put_prices(
    plane: Plane, *, spot: int = 300_000_000, on_demand: int | None = None
) -> None:
    """Make the pools of all zones known, and perhaps a price on demand; nano-USD an hour."""
    now = plane.server.kernel.clock.now()
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for zone in ZONES:
            await conn.execute(PUT_POOL, TYPE, zone, REGION, spot, now)
        if on_demand is not None:
            await conn.execute(PUT_ON_DEMAND, REGION, TYPE, on_demand, now)
