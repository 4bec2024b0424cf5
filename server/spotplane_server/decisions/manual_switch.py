"""Ordering a switch by hand, held to the limits of the agent's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from spotplane_server import audit
from spotplane_server.agents import access, switch_requests
from spotplane_server.agents import errors as agent_errors
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.store import Locked
from spotplane_server.agents.switch_requests import Asked, Queued, Target
from spotplane_server.decisions import errors, gates, on_demand, recording, snapshots
from spotplane_server.decisions.agent_queries import Subject
from spotplane_server.decisions.gates import Gate
from spotplane_server.decisions.requests import Wanted
from spotplane_server.fleet.errors import NotPrimary
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import Call


@dataclass(frozen=True, slots=True)
class Issued:
    """What became of a switch by hand; ``queued`` is None when the agent is there already."""

    agent: Locked
    primary: Instance
    queued: Queued | None


async def issue(
    conn: Conn, ledger: Ledger, call: Call, subject: Subject, wanted: Wanted, now: datetime
) -> Issued:
    """Order a switch; the caller's transaction is the agent's tenant's, and it wakes the instance.

    Raises:
        AutoSwitchDisabled, AgentDisabled, NotPrimary: The agent's state forbids it.
        PoolRequired, UnknownPool: The target cannot be reached.
        SwitchLimitReached, DwellNotReached, SwitchInProgress: Not now.
    """
    locked = await access.lock(conn, subject.agent_id)
    if not locked.config.auto_switch_enabled:
        raise errors.AutoSwitchDisabled
    if not locked.config.enabled:
        raise agent_errors.AgentDisabled("the agent is disabled")
    primary = await instances.find_primary(conn, locked.tenant_id, locked.id)
    if primary is None:
        raise NotPrimary("no instance serves this agent at present")
    await _check(conn, wanted.target, primary)
    if wanted.target.is_where(primary):
        return Issued(locked, primary, None)
    known = await switch_requests.find_open(conn, locked)
    if known is None or not switch_requests.leads_to(known, wanted.target):
        await _hold_to_limits(conn, locked, now)
    asked = Asked(wanted.trigger, wanted.priority, call.caller.name, reason=wanted.reason or None)
    queued = await ledger.queue_switch(conn, locked, wanted.target, asked, now)
    if queued.fresh:
        after = {
            "command_id": str(queued.command.id),
            "target_mode": wanted.target.mode,
            "target_pool_id": wanted.target.pool_id,
            "priority": wanted.priority,
        }
        change = audit.Change(
            "agent.issue_switch", "agent", str(locked.id), locked.tenant_id, after=after
        )
        await audit.record(conn, call, change, now)
    return Issued(locked, primary, queued)


async def _check(conn: Conn, target: Target, primary: Instance) -> None:
    await switch_requests.check_target(conn, target, primary.region)
    if target.pool_id is not None and not target.pool_id.startswith(f"{primary.instance_type}."):
        raise agent_errors.UnknownPool(
            "no such pool of the agent's type",
            field="target_pool_id",
            pool_id=target.pool_id[:128],
        )


async def _hold_to_limits(conn: Conn, locked: Locked, now: datetime) -> None:
    # Read again under the lock: a switch that has ended meanwhile counts.
    subject = await on_demand.get_subject(conn, locked.id, now)
    served = subject.serving_since or now
    held = [
        gate
        for gate in gates.limits(
            snapshots.limits_of(subject), served, now, recording.counts_of(subject)
        )
        if not gate.passed
    ]
    counts = [gate for gate in held if gate.name != "dwell"]
    if counts:
        raise errors.SwitchLimitReached(
            f"the agent has switched {counts[0].value:.0f} times of {counts[0].limit:.0f}"
            f" {counts[0].name.replace('_', ' ')}",
            metadata=_said(counts[0]),
        )
    if held:
        raise errors.DwellNotReached(
            f"the instance has served {held[0].value:.1f} of {held[0].limit:.0f} hours",
            metadata=_said(held[0]),
        )


def _said(gate: Gate) -> dict[str, str]:
    return {"limit": f"{gate.limit:g}", "used": f"{gate.value:g}"}
