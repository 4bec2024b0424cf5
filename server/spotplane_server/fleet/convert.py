"""Between rows and messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from spotplane.v1 import fleet_pb2 as pb

from spotplane_server.fleet import rules
from spotplane_server.fleet.queries import Filters, Listed
from spotplane_server.fleet.termination_queries import Doomed, waited
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.prices.store import Pool
from spotplane_server.switches.queries import Switch


def instance(row: Listed) -> pb.Instance:
    """An instance for an answer."""
    return pb.Instance(
        id=row.id,
        tenant_id=str(row.tenant_id),
        tenant_name=row.tenant_name,
        agent_id=str(row.agent_id) if row.agent_id else None,
        logical_agent_id=row.logical_agent_id,
        agent_status=row.agent_status,
        region=row.region,
        az=row.az,
        instance_type=row.instance_type,
        mode=row.mode,
        pool_id=row.pool_id,
        spot_price_nanousd=row.spot_price_nanousd,
        on_demand_price_nanousd=row.on_demand_price_nanousd,
        status=row.status,
        is_active=rules.is_active(row.status),
        is_primary=row.status == "running_primary",
        installed_at=wire.timestamp(row.installed_at),
        created_at=wire.timestamp(row.created_at),
        last_switch_at=wire.timestamp(row.last_switch_at),
    )


def filters(
    request: pb.ListInstancesRequest, wanted: Filters, tenant_id: TenantId | None
) -> pb.InstanceFilters:
    """The filters of a list as they were understood."""
    return pb.InstanceFilters(
        status=wire.optional(request, "status"),
        mode=wanted.mode,
        region=wanted.region,
        tenant_id=str(tenant_id) if tenant_id else None,
        search=wanted.search,
    )


def options(pools: Iterable[Pool]) -> list[pb.PoolOption]:
    """Pools to choose from."""
    return [
        pb.PoolOption(
            id=pool.id,
            name=rules.pool_name(pool.instance_type, pool.az),
            az=pool.az,
            instance_type=pool.instance_type,
            price_nanousd=pool.price_nanousd,
        )
        for pool in pools
    ]


def doomed(row: Doomed, now: datetime) -> pb.DoomedInstance:
    """An instance that is to end."""
    return pb.DoomedInstance(
        instance_id=row.instance_id,
        instance_type=row.instance_type,
        az=row.az,
        reason=row.reason,
        waiting_seconds=int(waited(row.since, now).total_seconds()),
    )


def switch(row: Switch) -> pb.Switch:
    """A switch for an answer."""
    return pb.Switch(
        id=str(row.id),
        agent_id=str(row.agent_id),
        command_id=str(row.command_id) if row.command_id else None,
        old_instance_id=row.old_instance_id,
        new_instance_id=row.new_instance_id,
        old_mode=row.old_mode,
        new_mode=row.new_mode,
        old_pool_id=row.old_pool_id,
        new_pool_id=row.new_pool_id,
        old_az=row.old_az,
        new_az=row.new_az,
        trigger=row.trigger,
        cause=row.cause,
        success=row.success,
        error_message=row.error_message,
        old_price_nanousd=row.old_price_nanousd,
        new_price_nanousd=row.new_price_nanousd,
        savings_impact_nanousd=row.savings_impact_nanousd,
        downtime_seconds=row.downtime_seconds,
        duration_seconds=row.duration_seconds,
        initiated_at=wire.timestamp(row.initiated_at),
        created_at=wire.timestamp(row.created_at),
    )
