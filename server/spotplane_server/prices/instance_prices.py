"""What instances told of their own prices: the newest of each, and every report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

PUT_OWN_PRICES: Final = """
    INSERT INTO instance_prices AS p (tenant_id, instance_id, spot_nanousd, on_demand_nanousd,
                                      observed_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (tenant_id, instance_id) DO UPDATE
       SET spot_nanousd = coalesce(excluded.spot_nanousd, p.spot_nanousd),
           on_demand_nanousd = coalesce(excluded.on_demand_nanousd, p.on_demand_nanousd),
           observed_at = excluded.observed_at
     WHERE p.observed_at <= excluded.observed_at
"""

INSERT_REPORT: Final = """
    INSERT INTO price_reports (tenant_id, agent_id, received_at, id, instance_id, observed_at,
                               spot_nanousd, on_demand_nanousd, accepted, dropped)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """What a report says of the reporter's own pool and type; nano-USD an hour."""

    spot_nanousd: int | None
    on_demand_nanousd: int | None
    observed_at: datetime


async def put(conn: Conn, tenant_id: TenantId, instance_id: str, own: OwnPrices) -> None:
    """Remember an instance's newest own prices; an older report changes nothing."""
    await conn.execute(
        PUT_OWN_PRICES,
        tenant_id,
        instance_id,
        own.spot_nanousd,
        own.on_demand_nanousd,
        own.observed_at,
    )


async def record_report(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    instance_id: str | None,
    own: OwnPrices,
    *,
    accepted: int,
    dropped: int,
    now: datetime,
) -> None:
    """Keep that an agent reported, and what of its own prices."""
    await conn.execute(
        INSERT_REPORT,
        tenant_id,
        agent_id,
        now,
        uuid4(),
        instance_id,
        own.observed_at,
        own.spot_nanousd,
        own.on_demand_nanousd,
        accepted,
        dropped,
    )
