"""What must be true of a tenant's fleet after every step, read from the database alone."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

from tests.states.world import Fleet

_AGENTS = "SELECT id::text, status, auto_terminate_enabled FROM agents WHERE tenant_id = $1"
_INSTANCES = """
    SELECT id, agent_id::text, status, mode, pool_id, terminate_consent, spared
      FROM instances
     WHERE tenant_id = $1
"""
_REPLICAS = """
    SELECT id::text, agent_id::text, instance_id, bound, status FROM replicas WHERE tenant_id = $1
"""
_COMMANDS = "SELECT id::text, agent_id::text, type, status FROM agent_commands WHERE tenant_id = $1"
_FAILOVERS = "SELECT id::text, instance_id, kind, status FROM failovers WHERE tenant_id = $1"
_SWITCHED_TWICE = """
    SELECT command_id
      FROM switches
     WHERE tenant_id = $1 AND success AND command_id IS NOT NULL
     GROUP BY command_id
    HAVING count(*) > 1
"""
_ENDED_TWICE = """
    SELECT command_id
      FROM agent_command_events
     WHERE tenant_id = $1 AND kind IN ('completed', 'failed', 'cancelled', 'expired')
     GROUP BY command_id
    HAVING count(*) > 1
"""
# Told at most once of each: a promotion of a replica, the end of an instance, a switch.
_TOLD_TWICE = """
    SELECT event_type, coalesce(data ->> 'switch_id', data ->> 'replica_id', data ->> 'instance_id')
      FROM outbox_events
     WHERE tenant_id = $1
       AND event_type IN ('replica.promoted', 'instance.terminated', 'switch.completed')
     GROUP BY 1, 2
    HAVING count(*) > 1
"""
_PROMOTED = """
    SELECT DISTINCT data ->> 'replica_id' AS id
      FROM outbox_events
     WHERE tenant_id = $1 AND event_type = 'replica.promoted'
"""
_SPANS = """
    SELECT instance_id, agent_id::text, status, mode, pool_id, started_at, ended_at
      FROM instance_spans
     WHERE tenant_id = $1
     ORDER BY instance_id, seq
"""

LIVE = {"launching", "syncing", "ready"}
OPEN = {"pending", "leased", "executing"}
FINAL = {
    "agent": {"deleted"},
    "instance": {"terminated"},
    "replica": {"promoted", "terminated"},
    "command": {"completed", "failed", "cancelled", "expired"},
    "failover": {"resolved", "failed", "ignored"},
}


async def check(fleet: Fleet) -> None:
    """What was committed is whole."""
    async with fleet.world.reader.snapshot():
        await _check(fleet)


async def _check(fleet: Fleet) -> None:
    agents = {row["id"]: row for row in await fleet.rows(_AGENTS)}
    instances = {row["id"]: row for row in await fleet.rows(_INSTANCES)}
    replicas = await fleet.rows(_REPLICAS)
    commands = await fleet.rows(_COMMANDS)
    failovers = await fleet.rows(_FAILOVERS)
    _one_of_each(agents, instances, replicas, commands)
    kinds = zip(
        FINAL, (agents.values(), instances.values(), replicas, commands, failovers), strict=True
    )
    for kind, rows in kinds:
        _final_is_final(fleet, kind, rows)
    _consented(fleet, agents, instances, replicas, failovers)
    assert await fleet.rows(_SWITCHED_TWICE) == [], "a command switched twice"
    assert await fleet.rows(_ENDED_TWICE) == [], "a command ended twice"
    assert await fleet.rows(_TOLD_TWICE) == [], "something was told twice"
    told = {row["id"] for row in await fleet.rows(_PROMOTED)}
    assert told <= {row["id"] for row in replicas if row["status"] == "promoted"}
    _spans_fit(instances, await fleet.rows(_SPANS))


def _one_of_each(
    agents: dict[str, Any], instances: dict[str, Any], replicas: list[Any], commands: list[Any]
) -> None:
    """One primary, one live replica, one open switch; a deleted agent has none of them."""
    for agent_id, agent in agents.items():
        here = [row for row in instances.values() if row["agent_id"] == agent_id]
        primaries = [row["id"] for row in here if row["status"] == "running_primary"]
        live = [row for row in replicas if row["agent_id"] == agent_id and row["status"] in LIVE]
        switching = [
            row
            for row in commands
            if row["agent_id"] == agent_id and row["type"] == "switch" and row["status"] in OPEN
        ]
        assert max(len(primaries), len(live), len(switching)) <= 1
        if agent["status"] == "deleted":
            assert not primaries, "a deleted agent serves"
            assert not live, "a deleted agent has a live replica"
        standing = {row["id"] for row in here if row["status"] == "running_replica"}
        assert standing <= {row["instance_id"] for row in live}, "it stands by for nobody"
    for row in replicas:
        if row["status"] in LIVE and row["bound"]:
            assert instances[row["instance_id"]]["agent_id"] == row["agent_id"]
    assert not [name for name in instances if not name.startswith("i-")], "a placeholder lives"


def _final_is_final(fleet: Fleet, kind: str, rows: Any) -> None:
    for row in rows:
        key = (kind, row["id"])
        assert fleet.final.get(key, row["status"]) == row["status"], f"{key} rose from the dead"
        if row["status"] in FINAL[kind]:
            fleet.final[key] = row["status"]


def _consented(
    fleet: Fleet,
    agents: dict[str, Any],
    instances: dict[str, Any],
    replicas: list[Any],
    failovers: list[Any],
) -> None:
    """What ends now was agreed to, was a replica that was ended, or is gone as somebody said."""
    given_up = {row["instance_id"] for row in replicas if row["status"] == "terminated"}
    taken = {row["instance_id"] for row in failovers if row["kind"] == "termination"}
    for name, row in instances.items():
        before = fleet.instances.get(name)
        if row["status"] not in ("terminating", "terminated") or (
            before is not None and before["status"] == row["status"]
        ):
            continue
        agreed = row["terminate_consent"] or (
            agents[row["agent_id"]]["auto_terminate_enabled"] and not row["spared"]
        )
        assert agreed or name in fleet.gone | given_up | taken, f"{name} ends without consent"
        serving = before is not None and before["status"] == "running_primary"
        assert not serving or name in fleet.gone | taken, f"{name} served, and ends"
    fleet.instances = instances


def _spans_fit(instances: dict[str, Any], spans: list[Any]) -> None:
    """An instance's spans follow one another without a gap, and the last says what it is."""
    seen = set()
    for name, group in groupby(spans, key=lambda row: row["instance_id"]):
        rows = list(group)
        seen.add(name)
        for before, after in pairwise(rows):
            assert before["ended_at"] == after["started_at"], f"spans of {name} do not join"
        last, now = rows[-1], instances[name]
        if now["status"] == "terminated":
            assert last["ended_at"] is not None, f"{name} costs on after its end"
        else:
            assert last["ended_at"] is None
            for column in ("agent_id", "status", "mode", "pool_id"):
                assert last[column] == now[column], f"the open span of {name} is not up to date"
    assert {name for name, row in instances.items() if row["status"] != "terminated"} <= seen
