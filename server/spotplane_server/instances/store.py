"""The instances table and its one writer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.instances import rules
from spotplane_server.instances.rules import Status
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.errors import Invalid
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.prices.rules import FALLBACK_ON_DEMAND_NANOUSD

# The catalogue's rows are locked against deletion; a region or type that the catalogue lacks is
# no reason to refuse a machine that runs already.
INSERT_INSTANCE: Final = """
    WITH region AS (
        SELECT id, provider FROM regions
         WHERE code = $5 AND deleted_at IS NULL
           FOR KEY SHARE),
    type AS (
        SELECT t.id FROM instance_types t, region r
         WHERE t.provider = r.provider AND t.instance_type = $4 AND t.deleted_at IS NULL
           FOR KEY SHARE OF t)
    INSERT INTO instances (tenant_id, id, agent_id, instance_type, region, az, mode, pool_id,
                           hostname, image_id, private_ip, public_ip, status, launched_at,
                           active_at, updated_at, region_id, instance_type_id,
                           baseline_price_nanousd, first_spot_price_nanousd)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
           CASE WHEN $13 = 'launching' THEN NULL ELSE $14::timestamptz END, $14,
           (SELECT id FROM region), (SELECT id FROM type),
           b.price, coalesce(p.price_nanousd, b.price * 3 / 10)
      FROM (SELECT coalesce((SELECT o.price_nanousd
                               FROM on_demand_prices o
                              WHERE o.region = $5 AND o.instance_type = $4), $15) AS price) b
      LEFT JOIN pools p ON p.id = $4 || '.' || $6
    ON CONFLICT (tenant_id, id) DO NOTHING
"""

REFRESH_INSTANCE: Final = """
    UPDATE instances
       SET hostname = coalesce($3, hostname),
           private_ip = coalesce($4, private_ip),
           public_ip = coalesce($5, public_ip),
           instance_type = coalesce($6, instance_type),
           az = coalesce($7, az),
           mode = coalesce($8, mode),
           pool_id = CASE WHEN coalesce($8, mode) = 'spot' THEN coalesce($9, pool_id) END,
           updated_at = $10
     WHERE tenant_id = $1 AND id = $2
       AND (hostname, private_ip, public_ip, instance_type, az, mode, pool_id) IS DISTINCT FROM
           (coalesce($3, hostname), coalesce($4, private_ip), coalesce($5, public_ip),
            coalesce($6, instance_type), coalesce($7, az), coalesce($8, mode),
            CASE WHEN coalesce($8, mode) = 'spot' THEN coalesce($9, pool_id) END)
"""

# Whatever an agent leaves to the one that takes its place.
REHOME_INSTANCES: Final = """
    UPDATE instances SET agent_id = $3, updated_at = $4 WHERE tenant_id = $1 AND agent_id = $2
"""

# What an agent leaves behind that was deleted is free for another.
ADOPT_INSTANCE: Final = """
    UPDATE instances i
       SET agent_id = $3, status = 'launching', launched_at = $4, active_at = NULL,
           terminated_at = NULL, updated_at = $4
     WHERE i.tenant_id = $1 AND i.id = $2
       AND EXISTS (SELECT
                     FROM agents a
                    WHERE a.tenant_id = i.tenant_id AND a.id = i.agent_id
                      AND a.deleted_at IS NOT NULL)
"""

FIND_INSTANCE: Final = """
    SELECT tenant_id, id, agent_id, status, instance_type, region, az, mode, pool_id
      FROM instances
     WHERE tenant_id = $1 AND id = $2
"""

FIND_PRIMARY: Final = """
    SELECT tenant_id, id, agent_id, status, instance_type, region, az, mode, pool_id
      FROM instances
     WHERE tenant_id = $1 AND agent_id = $2 AND status = 'running_primary'
"""

# Of administrators' calls there may be one in each tenant.
FIND_OWNED: Final = """
    SELECT tenant_id, id, agent_id, status, instance_type, region, az, mode, pool_id
      FROM instances
     WHERE id = $1
     LIMIT 2
"""

MOVE_INSTANCE: Final = """
    UPDATE instances
       SET status = $4,
           active_at = CASE WHEN $4 IN ('running_primary', 'running_replica')
                            THEN coalesce(active_at, $5) ELSE active_at END,
           terminated_at = CASE WHEN $4 = 'terminated' THEN $5 ELSE terminated_at END,
           updated_at = $5
     WHERE tenant_id = $1 AND id = $2 AND status = ANY($3)
"""


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine as the plane knows it; ``id`` is the cloud's."""

    tenant_id: TenantId
    id: str
    agent_id: UUID
    status: Status
    instance_type: str
    region: str
    az: str
    mode: str
    pool_id: str | None


@dataclass(frozen=True, slots=True)
class Said:
    """What a known machine tells of itself anew; None where it told nothing."""

    id: str
    instance_type: str | None = None
    az: str | None = None
    mode: str | None = None
    pool_id: str | None = None
    hostname: str | None = None
    private_ip: str | None = None
    public_ip: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine tells of itself."""

    id: str
    instance_type: str
    region: str
    az: str
    mode: str
    pool_id: str | None
    hostname: str | None = None
    image_id: str | None = None
    private_ip: str | None = None
    public_ip: str | None = None


async def insert(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, machine: Machine, status: Status, now: datetime
) -> None:
    """Make a machine known; a known one stays as it is.

    Raises:
        Invalid: Its id is a placeholder, which must never serve or be ended.
    """
    if rules.is_placeholder(machine.id):
        raise Invalid("instance_id is a placeholder, not an instance", field="instance_id")
    await conn.execute(
        INSERT_INSTANCE,
        tenant_id,
        machine.id,
        agent_id,
        machine.instance_type,
        machine.region,
        machine.az,
        machine.mode,
        machine.pool_id,
        machine.hostname,
        machine.image_id,
        machine.private_ip,
        machine.public_ip,
        status,
        now,
        FALLBACK_ON_DEMAND_NANOUSD,
    )


async def adopt(
    conn: Conn, tenant_id: TenantId, instance_id: str, agent_id: UUID, now: datetime
) -> bool:
    """Give a deleted agent's machine to another agent; False when its agent lives."""
    done = await conn.execute(ADOPT_INSTANCE, tenant_id, instance_id, agent_id, now)
    return bool(done == "UPDATE 1")


async def refresh(conn: Conn, tenant_id: TenantId, said: Said, now: datetime) -> None:
    """Overwrite what may change while a machine lives, where it was told and differs."""
    await conn.execute(
        REFRESH_INSTANCE,
        tenant_id,
        said.id,
        said.hostname,
        said.private_ip,
        said.public_ip,
        said.instance_type,
        said.az,
        said.mode,
        said.pool_id,
        now,
    )


async def rehome(conn: Conn, tenant_id: TenantId, agent_id: UUID, to: UUID, now: datetime) -> None:
    """Hand all of an agent's machines to another; call it when only one of both has a primary."""
    await conn.execute(REHOME_INSTANCES, tenant_id, agent_id, to, now)


async def find(conn: Conn, tenant_id: TenantId, instance_id: str) -> Instance | None:
    """One instance, None when it is not known."""
    row = await conn.fetchrow(FIND_INSTANCE, tenant_id, instance_id)
    return Instance(**row) if row else None


async def find_owned(conn: Conn, instance_id: str) -> list[Instance]:
    """Instances of this id within the connection's scope, at most two."""
    return [Instance(**row) for row in await conn.fetch(FIND_OWNED, instance_id)]


async def find_primary(conn: Conn, tenant_id: TenantId, agent_id: UUID) -> Instance | None:
    """The instance that serves, None when none does."""
    row = await conn.fetchrow(FIND_PRIMARY, tenant_id, agent_id)
    return Instance(**row) if row else None


async def move(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    *,
    frm: tuple[Status, ...],
    to: Status,
    now: datetime,
) -> bool:
    """Move an instance from one of some states to another; False when it was in none of them."""
    done = await conn.execute(MOVE_INSTANCE, tenant_id, instance_id, list(frm), to, now)
    return bool(done == "UPDATE 1")
