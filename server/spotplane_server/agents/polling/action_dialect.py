"""The action dialect: a switch is several steps there, each an order of its own.

`switch` is sent as LAUNCH_INSTANCE. When its outcome is told, by `instance-launched` or by the
result, the plane makes the new instance primary, whichever comes first, and queues what is left to
do: PROMOTE_REPLICA_TO_PRIMARY, and with consent TERMINATE_INSTANCE after the wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

from spotplane_server.agents import rules
from spotplane_server.agents.commands.store import Command, Order
from spotplane_server.agents.polling import commands
from spotplane_server.agents.polling.commands import Poll
from spotplane_server.instances import rules as instance_rules
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Machine
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

Issue: TypeAlias = Callable[[Conn, TenantId, UUID, str, Order, datetime], Awaitable[UUID]]

# What these steps are worth: an agent in the middle of a switch has nothing more urgent to do
# short of an emergency.
STEP_PRIORITY: Final = 99


@dataclass(frozen=True, slots=True)
class Action:
    """A command as agents of this dialect read it."""

    type: str
    instance_id: str | None
    params: dict[str, Any]


def placeholder(command_id: UUID) -> str:
    """What stands for the instance of a switch until there is one."""
    return f"switch-{command_id.hex[:8]}"


async def translate(conn: Conn, command: Command, poll: Poll) -> Action:
    """Say a leased command in the action dialect."""
    given = command.parameters
    match command.type:
        case "switch":
            return Action("LAUNCH_INSTANCE", placeholder(command.id), _launch(given, poll))
        case "create_replica":
            stands = await commands.placeholder(
                conn, command.tenant_id, UUID(str(given["replica_id"]))
            )
            params = {
                "target_pool": f"spot.{given.get('pool_id')}",
                "az": given.get("az"),
                "instance_type": given.get("instance_type"),
                "role_hint": "replica",
            }
            return Action("LAUNCH_INSTANCE", stands, params)
        case "promote_replica":
            keys = ("replica_instance_id", "old_primary_id")
            named = given.get("replica_instance_id")
            return Action("PROMOTE_REPLICA_TO_PRIMARY", named, {k: given.get(k) for k in keys})
        case "update_config":
            return Action("APPLY_CONFIG", command.instance_id, {"config_updates": _config(poll)})
        case _:
            return _end(command)


def _launch(given: dict[str, Any], poll: Poll) -> dict[str, Any]:
    # These agents launch on spot only when the pool's name says so.
    mode = "spot" if given.get("target_mode") == "spot" else "ondemand"
    instance_type = given.get("instance_type") or poll.instance_type or ""
    pool_id = given.get("target_pool_id") or instance_rules.pool_id(instance_type, poll.az or "")
    return {
        "target_pool": f"{mode}.{pool_id}",
        "az": instance_rules.zone(pool_id),
        "instance_type": instance_type,
        "role_hint": "primary",
    }


def _config(poll: Poll) -> dict[str, bool]:
    return {
        "auto_switching": poll.auto_switch_enabled,
        "auto_terminate": poll.auto_terminate_enabled,
        "manual_replica": poll.manual_replica_enabled,
        "emergency_only": not poll.enabled,
    }


def _end(command: Command) -> Action:
    named = command.parameters.get("instance_id")
    if named in {None, command.instance_id}:
        return Action("SELF_DESTRUCT", command.instance_id, {})
    return Action("TERMINATE_INSTANCE", str(named), {"instance_id": named})


async def take_note(conn: Conn, command: Command, instance_id: object, now: datetime) -> None:
    """Make the instance of a launch known when its result names it before anything else does."""
    if command.dialect != "action" or command.type != "switch" or not instance_id:
        return
    old = await instances.find(conn, command.tenant_id, command.instance_id)
    known = await instances.find(conn, command.tenant_id, str(instance_id))
    if old is None or known is not None:
        return
    given = command.parameters
    mode = "spot" if given.get("target_mode") == "spot" else "ondemand"
    instance_type = str(given.get("instance_type") or old.instance_type)
    pool_id = given.get("target_pool_id")
    az = instance_rules.zone(str(pool_id)) if pool_id else old.az
    spot_pool = instance_rules.pool_id(instance_type, az) if mode == "spot" else None
    machine = Machine(str(instance_id), instance_type, old.region, az, mode, spot_pool)
    await instances.insert(conn, command.tenant_id, command.agent_id, machine, "launching", now)


async def follow_up(conn: Conn, done: Command, issue: Issue, now: datetime) -> None:
    """Queue what is left of a switch whose instance has become primary.

    Call it in the transaction of the switch's effect, after it. The steps go to the new primary;
    they are queued once, since a command takes effect once.
    """
    new_id = (done.result or {}).get("instance_id")
    if done.dialect != "action" or done.status != "completed" or not isinstance(new_id, str):
        return
    primary = await instances.find(conn, done.tenant_id, new_id)
    if primary is None or primary.status != "running_primary" or new_id == done.instance_id:
        return
    promote = _step(
        done,
        "promote_replica",
        {"replica_instance_id": new_id, "old_primary_id": done.instance_id},
    )
    await issue(conn, done.tenant_id, primary.agent_id, new_id, promote, now)
    wait = int(done.parameters.get("terminate_wait_seconds") or 0)
    if wait > 0:
        at = now + timedelta(seconds=wait)
        end = _step(done, "terminate", {"instance_id": done.instance_id}, at)
        await issue(conn, done.tenant_id, primary.agent_id, new_id, end, now)


def _step(
    done: Command, kind: str, parameters: dict[str, Any], not_before: datetime | None = None
) -> Order:
    return Order(
        kind,
        kind,
        parameters,
        done.priority if done.priority == rules.EMERGENCY else STEP_PRIORITY,
        done.trigger,
        done.created_by,
        f"{done.id}-{kind}",
        rules.EXPIRES_IN,
        not_before,
    )
