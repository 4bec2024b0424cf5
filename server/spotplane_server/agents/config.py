"""Changing an agent's configuration: one path, whatever name a change comes under."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from spotplane_server import audit, events
from spotplane_server.agents import access, rules, store
from spotplane_server.agents.commands import store as store_module
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.queries import AgentView
from spotplane_server.agents.store import Config, Locked
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import Call


async def change(
    conn: Conn, call: Call, agent_id: UUID, wanted: dict[str, Any], ledger: Ledger, now: datetime
) -> AgentView:
    """Change what is wanted and differs, with all that follows; the agent as it is then.

    The version rises by one for an effective change, which is audited and announced. What waits
    for a disabled agent is cancelled, and pending automatic switches when automatic switching goes
    off. Replicas follow by the coordinator, which the agent's topic wakes: signal it after the
    commit.

    Args:
        conn: In a transaction of the caller's scope.
        call: Who changes it.
        agent_id: The agent.
        wanted: Members of `Config`, or `terminate_wait_minutes`.
        ledger: To end what has lost its sense.
        now: When.

    Raises:
        AgentNotFound: There is none in the connection's scope.
    """
    locked = await access.lock(conn, agent_id)
    config = _resulting(locked.config, wanted)
    if config != locked.config:
        await store.update_config(conn, locked.tenant_id, agent_id, config, now)
        await _follow(conn, locked, config, ledger, now)
        changed = {name: (old, new) for name, old, new in _differences(locked.config, config)}
        await audit.record(conn, call, _audited(locked, changed), now)
        for event in _told(locked, changed):
            await events.append(conn, event, now)
    return await access.get(conn, agent_id, now)


def _resulting(present: Config, wanted: dict[str, Any]) -> Config:
    wanted = dict(wanted)
    minutes = wanted.pop("terminate_wait_minutes", None)
    if minutes is not None:
        wanted["terminate_wait_seconds"] = rules.seconds_meant(
            minutes, present.terminate_wait_seconds
        )
    return replace(present, **wanted)


async def _follow(
    conn: Conn, locked: Locked, config: Config, ledger: Ledger, now: datetime
) -> None:
    if locked.config.enabled and not config.enabled:
        await ledger.tidy(conn, locked.tenant_id, locked.id, now)
    if locked.config.auto_switch_enabled and not config.auto_switch_enabled:
        await store_module.cancel_automatic(conn, locked.tenant_id, locked.id, now)


def _differences(before: Config, after: Config) -> list[tuple[str, Any, Any]]:
    old, new = asdict(before), asdict(after)
    return [(name, _plain(old[name]), _plain(new[name])) for name in new if old[name] != new[name]]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int)) else str(value)


def _audited(locked: Locked, changed: dict[str, tuple[Any, Any]]) -> audit.Change:
    return audit.Change(
        "agent.update_config",
        "agent",
        str(locked.id),
        locked.tenant_id,
        before={name: old for name, (old, _) in changed.items()},
        after={name: new for name, (_, new) in changed.items()},
    )


def _told(locked: Locked, changed: dict[str, tuple[Any, Any]]) -> list[events.Event]:
    about = {"agent_id": str(locked.id), "agent_name": locked.logical_agent_id}
    told = []
    if "enabled" in changed:
        toggled = about | {"enabled": changed["enabled"][1]}
        told.append(events.Event("agent.toggled", str(locked.id), toggled, locked.tenant_id))
    after = {name: new for name, (_, new) in changed.items()}
    before = {name: old for name, (old, _) in changed.items()}
    data = about | {"before": before, "after": after}
    told.append(events.Event("config.changed", str(locked.id), data, locked.tenant_id))
    return told
