"""Switches ordered by people, and where they may lead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from spotplane.v1 import fleet_pb2 as pb

from spotplane_server import audit
from spotplane_server.agents import errors as agent_errors
from spotplane_server.agents.switch_requests import Queued, Target
from spotplane_server.fleet import errors, rules
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn
from spotplane_server.prices import pool_selection
from spotplane_server.prices import store as market


@dataclass(frozen=True, slots=True)
class Wish:
    """Where somebody wants an agent."""

    target: rules.Target
    pool_id: str | None
    instance_type: str | None


async def target(conn: Conn, primary: Instance, wish: Wish, now: datetime) -> Target:
    """What a wish comes to.

    Raises:
        PoolRequired: A pool is wanted and none is named.
        NoPoolAvailable: Any spot pool is wanted, and no other one has a fresh price.
    """
    # Another type is worth saying only when it is another.
    kind = wish.instance_type if wish.instance_type != primary.instance_type else None
    if wish.target == "ondemand":
        return Target("ondemand", None, kind)
    if wish.pool_id is not None:
        return Target("spot", wish.pool_id, kind)
    if wish.target == "pool":
        raise agent_errors.PoolRequired("name the pool to switch to", field="pool_id")
    pools = await market.list_pools(conn, primary.region, kind or primary.instance_type, now=now)
    chosen = pool_selection.cheapest(pools, current=primary.pool_id, now=now)
    if chosen is None:
        raise errors.NoPoolAvailable(
            "no other pool of the type and region has a price of the last 10 minutes",
            field="target",
        )
    return Target("spot", chosen.id, kind)


def there_already(primary: Instance) -> pb.ForceSwitchResponse:
    """Nothing to do."""
    return pb.ForceSwitchResponse(
        success=False,
        message="the agent is there already",
        current_mode=primary.mode,
        current_pool_id=primary.pool_id,
    )


def queued(found: Queued) -> pb.ForceSwitchResponse:
    """A switch is open now."""
    return pb.ForceSwitchResponse(
        success=True,
        command_id=str(found.command.id),
        message="the switch is queued" if found.fresh else "the same switch is open already",
    )


def change(primary: Instance, wanted: Target, found: Queued) -> audit.Change:
    """What was ordered, for the audit."""
    return audit.Change(
        "instance.force_switch",
        "instance",
        primary.id,
        primary.tenant_id,
        before={"mode": primary.mode, "pool_id": primary.pool_id},
        after={
            "mode": wanted.mode,
            "pool_id": wanted.pool_id,
            "agent_id": str(primary.agent_id),
            "command_id": str(found.command.id),
        },
    )
