"""Compares what a campaign accepted with the database, the agents' effects and the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import asyncpg
import grpc.aio
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    api_key_pb2,
    api_key_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

from spotplane_bench import stack
from spotplane_bench.faults.load import Ledger
from spotplane_bench.faults.site import Site

COMMANDS: Final = """
    SELECT id::text, request_id, status, instance_id FROM agent_commands WHERE name = 'count'
"""
USAGE: Final = "SELECT request_id, count(*) FROM usage_records GROUP BY request_id"
KEYS: Final = "SELECT name, count(*) FROM api_keys WHERE name LIKE 'key-%' GROUP BY name"
PRIMARIES: Final = """
    SELECT a.logical_agent_id, count(i.id)
      FROM agents a
      LEFT JOIN instances i ON i.tenant_id = a.tenant_id AND i.agent_id = a.id
                           AND i.status = 'running_primary'
     GROUP BY a.logical_agent_id
"""
FAILOVERS: Final = """
    SELECT instance_id, kind, status FROM failovers
"""
LIST_OPEN: Final = """
    SELECT format('command %s on %s is %s since %s, expires %s', id, instance_id, status,
                  coalesce(started_at, received_at, leased_at, created_at), expires_at)
      FROM agent_commands
     WHERE name = 'count' AND status IN ('pending', 'leased', 'executing')
       AND instance_id = ANY($1)
    UNION ALL
    SELECT format('failover %s (%s of %s) is %s with %s since %s: %s', id, kind, instance_id,
                  status, action, detected_at, message)
      FROM failovers
     WHERE status IN ('detected', 'handling')
"""
# A handler that was running when its agent was killed is reported failed.
_ONE_EFFECT: Final = {"completed": (1, 1), "failed": (0, 1)}
_NO_EFFECT: Final = (0, 0)
# Commands that are read through the API.
_READ: Final = 100


async def list_open(conn: asyncpg.Connection[asyncpg.Record], site: Site) -> list[str]:
    """Describe commands of living instances, and failovers, that are not finished."""
    return [row[0] for row in await conn.fetch(LIST_OPEN, sorted(_living(site)))]


def _living(site: Site) -> set[str]:
    """Instances that run, and that the cloud does not take back."""
    return {
        one.instance_id
        for one in site.cloud.instances.values()
        if one.state == "running" and one.deadline is None
    }


async def missing_usage(
    conn: asyncpg.Connection[asyncpg.Record], site: Site, ledger: Ledger
) -> set[str]:
    """Request ids of accepted and reported usage that is not stored."""
    return _due(site, ledger) - {row["request_id"] for row in await conn.fetch(USAGE)}


def _due(site: Site, ledger: Ledger) -> set[str]:
    """Usage that must be stored. What a taken instance had not sent went with its disk."""
    living = _living(site)
    return ledger.usage | {
        request_id for request_id, instance_id in ledger.reported.items() if instance_id in living
    }


async def violations(
    conn: asyncpg.Connection[asyncpg.Record], site: Site, ledger: Ledger
) -> list[str]:
    """All that contradicts what was accepted; empty when nothing does."""
    found = [*ledger.internal]
    commands = await conn.fetch(COMMANDS)
    effects = [effect.command_id for effect in site.effects]
    found += check_commands(commands, effects, ledger, _living(site))
    found += check_usage(await conn.fetch(USAGE), _due(site, ledger))
    found += check_keys(await conn.fetch(KEYS), ledger)
    found += [
        f"agent {row['logical_agent_id']} has {row['count']} primaries"
        for row in await conn.fetch(PRIMARIES)
        if row["count"] != 1
    ]
    noticed = [instance_id for ids in site.noticed.values() for instance_id in ids]
    found += check_failovers(await conn.fetch(FAILOVERS), noticed)
    found += disconnected_agents(site)
    async with grpc.aio.insecure_channel(site.servers[0].target) as channel:
        statuses = {row["id"]: row["status"] for row in commands}
        found += await _api(channel, site, ledger, statuses)
    return [
        text if times == 1 else f"{text} ({times} times)" for text, times in Counter(found).items()
    ]


def check_commands(
    rows: list[Any], effects_log: list[str], ledger: Ledger, living: set[str]
) -> Iterator[str]:
    """Accepted commands took effect once, and rejected ones never.

    The result of a command whose instance was taken may have gone with it, whatever its status.
    """
    statuses = {row["id"]: row["status"] for row in rows}
    effects = Counter(effects_log)
    for command_id in ledger.commands:
        if command_id not in statuses:
            yield f"accepted command {command_id} is lost"
    for row in rows:
        command_id, status = row["id"], row["status"]
        least, most = _ONE_EFFECT.get(status, _NO_EFFECT)
        if status != "completed" and row["instance_id"] not in living:
            most = 1
        if not least <= effects[command_id] <= most:
            yield f"command {command_id} is {status} and took effect {effects[command_id]} times"
    for key, count in Counter(row["request_id"] for row in rows).items():
        if count > 1:
            yield f"{count} commands were made of {key}"
    for command_id in set(effects) - set(statuses):
        yield f"command {command_id} took effect and is not stored"


def check_usage(rows: list[Any], due: set[str]) -> Iterator[str]:
    """Accepted usage is stored once."""
    stored = {row["request_id"]: row["count"] for row in rows}
    for request_id, count in stored.items():
        if count > 1:
            yield f"usage {request_id} is counted {count} times"
    lost = due - set(stored)
    if lost:
        yield f"{len(lost)} accepted usage records are lost, e.g. {min(lost)}"


def check_keys(rows: list[Any], ledger: Ledger) -> Iterator[str]:
    """Each key was created once."""
    made = {row["name"]: row["count"] for row in rows}
    for name, count in made.items():
        if count > 1:
            yield f"{count} keys were made of {name}"
    for name in ledger.keys:
        if name not in made:
            yield f"accepted key {name} is lost"


def check_failovers(rows: list[Any], noticed: list[str]) -> Iterator[str]:
    """Each notice led to one failover, and no living instance was declared lost."""
    announced = Counter(row["instance_id"] for row in rows if row["kind"] == "termination")
    for row in rows:
        if row["kind"] == "silence":
            yield f"instance {row['instance_id']} was declared lost, and was not"
    for instance_id in noticed:
        if announced[instance_id] != 1:
            yield f"a notice to {instance_id} led to {announced[instance_id]} failovers"


def disconnected_agents(site: Site) -> Iterator[str]:
    """Describe each agent of a running instance that has no connection."""
    for one in site.cloud.instances.values():
        agent = one.agent
        if one.state != "running" or agent is None or one.deadline is not None:
            continue
        if agent.failure is not None:
            yield f"the agent of {one.instance_id} ended: {agent.failure!r}"
        elif not agent.connected:
            yield f"the agent of {one.instance_id} is {agent.link_state}: {agent.last_error}"


async def _api(
    channel: grpc.aio.Channel, site: Site, ledger: Ledger, statuses: dict[str, str]
) -> list[str]:
    """What the API says and the database does not."""
    found = []
    agents = agent_pb2_grpc.AgentServiceStub(channel)
    for command_id, agent_id in list(ledger.commands.items())[:_READ]:
        command = await agents.GetCommand(
            agent_pb2.GetCommandRequest(agent_id=agent_id, command_id=command_id),
            metadata=site.tenant.metadata,
        )
        if command.status != statuses.get(command_id):
            found.append(f"the API says that {command_id} is {command.status}")
    keys = api_key_pb2_grpc.ApiKeyServiceStub(channel)
    for name, token in ledger.keys.items():
        try:
            await keys.ListOwnApiKeys(
                api_key_pb2.ListOwnApiKeysRequest(),
                metadata=(("authorization", f"Bearer {token}"),),
            )
        except grpc.aio.AioRpcError as err:
            if err.code() is grpc.StatusCode.UNAUTHENTICATED:
                found.append(f"the token that was answered for {name} does not work")
    sums = await usage_pb2_grpc.UsageServiceStub(channel).VerifyRollups(
        usage_pb2.VerifyRollupsRequest(tenant_id=site.tenant.id), metadata=stack.ADMIN
    )
    if sums.wrong_hours or sums.wrong_days or sums.wrong_minutes:
        found.append(f"sums of usage differ from its records: {sums}")
    return found
