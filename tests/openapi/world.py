"""Callers and objects that the generated requests refer to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from uuid import uuid4

from aiohttp import ClientSession
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    failover_pb2,
    failover_pb2_grpc,
    replica_pb2,
    replica_pb2_grpc,
)

from tests.fleet import world as fleet
from tests.parity.worlds import Headers
from tests.parity.worlds import World as Things
from tests.support.clock import FakeClock
from tests.support.plane import ADMIN_TOKEN, Plane, Tenant

# Newest ids of each kind that are stored beside those created on purpose.
_REMEMBERED: Final = 6
_VARIABLE: Final = re.compile(r"^\{(\w+)\}$")


class Pools:
    """Ids of existing objects, by the name that requests have for them."""

    def __init__(self) -> None:
        self._seen: dict[str, list[Any]] = {}
        self._own: dict[str, Any] = {}

    def pin(self, name: str, value: Any) -> None:
        """Store an id of the callers' own objects; the previous one becomes an ordinary one."""
        self._own[name] = value
        self.add(name, value)

    def add(self, name: str, value: Any) -> None:
        """Store an id; the oldest is deleted."""
        known = self._seen.setdefault(name, [])
        if value not in known:
            known.append(value)
            del known[:-_REMEMBERED]

    def pick(self, name: str, random: Random) -> Any:
        """Return one of them; None if there is none."""
        known = self._seen.get(name)
        if known and name in self._own and random.random() < 0.6:
            return self._own[name]
        return random.choice(known) if known else None

    def of_variable(self, template: str, name: str, random: Random) -> Any:
        """An id for a variable of a path: by its name, or by the noun before it."""
        found = self.pick(name, random)
        return self.pick(noun_before(template, name), random) if found is None else found

    def learn(self, template: str, reply: Any) -> None:
        """Store the ids in a response."""
        for name, value in _ids(reply):
            self.add(noun_of(template) if name == "id" else name, value)


def noun_of(template: str) -> str:
    """Return the last word of a path, the noun of its responses."""
    return [part for part in template.split("/") if part and not _VARIABLE.match(part)][-1]


def noun_before(template: str, name: str) -> str:
    """Return the word before a variable of a path."""
    head = template.partition(f"/{{{name}")[0]
    return noun_of(head) if head else ""


def _ids(reply: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(reply, list):
        for item in reply[:_REMEMBERED]:
            yield from _ids(item)
    elif isinstance(reply, dict):
        for name, value in reply.items():
            is_id = name == "id" or name.endswith("_id")
            if is_id and isinstance(value, (str, int)) and value:
                yield name, value
            elif isinstance(value, (dict, list)):
                yield from _ids(value)


@dataclass
class World:
    """Two tenants with agents, instances, switches, replicas and usage, and a catalogue.

    Requests may suspend and delete everything, even their own tenant: `revive` creates a new world
    of
    the same kind when a caller has lost its permissions.
    """

    plane: Plane
    http: ClientSession
    base: str
    pools: Pools = field(default_factory=Pools)
    callers: dict[str, Headers] = field(default_factory=dict)

    async def make(self) -> None:
        """Create everything anew; earlier ids stay stored."""
        for _ in range(2):
            await self._tenant()
        await self._catalogue()

    async def revive(self) -> None:
        """Create everything anew if a caller has lost its permissions."""
        for who, path in (("key", "/v1/api-keys"), ("agent", f"/api/agents/{self._agent}/config")):
            async with self.http.get(self.base + path, headers=self.callers[who]) as answer:
                if answer.status != 200:
                    await self.make()
                    return

    async def _tenant(self) -> None:
        tenant = await self.plane.tenant()
        hand = fleet.World(self.plane, tenant, FakeClock())
        await hand.prices()
        mark = uuid4().hex[:8]
        registered = await self._register(tenant, f"i-{mark}")
        agent_id = registered.agent_id
        await hand.report(agent_id, f"i-{mark}", f"i-{mark}-b")
        agents = agent_pb2_grpc.AgentServiceStub(self.plane.channel)
        command = await agents.IssueCommand(
            agent_pb2.IssueCommandRequest(agent_id=agent_id, name="restart"),
            metadata=tenant.metadata,
        )
        await hand.configure(agent_id, manual_replica_enabled=True, enabled=False)
        replica = await replica_pb2_grpc.ReplicaServiceStub(self.plane.channel).CreateReplica(
            replica_pb2.CreateReplicaRequest(agent_id=agent_id), metadata=tenant.metadata
        )
        failover = await failover_pb2_grpc.FailoverServiceStub(self.plane.channel).ReportNotice(
            failover_pb2.ReportNoticeRequest(agent_id=agent_id, kind="rebalance"),
            metadata=tenant.metadata,
        )
        spare = await self.plane.key(tenant.id)
        named = {
            "tenant_id": tenant.id,
            "client_id": tenant.id,
            "tenants": tenant.id,
            "key_id": spare.id,
            "agent_id": agent_id,
            "instance_id": f"i-{mark}-b",
            "command_id": command.id,
            "replica_id": replica.id,
            "failover_id": failover.id,
        }
        for name, value in named.items():
            self.pools.pin(name, value)
        self._agent = agent_id
        self.callers = {
            "admin": {"X-Admin-Token": ADMIN_TOKEN},
            "key": {"Authorization": f"Bearer {tenant.key}"},
            "agent": {"Authorization": f"Bearer {registered.agent_token}"},
            "nobody": {},
        }

    async def _register(self, tenant: Tenant, instance_id: str) -> agent_pb2.RegisterResponse:
        request = agent_pb2.RegisterRequest(
            logical_agent_id=f"agent-{instance_id}",
            instance_id=instance_id,
            instance_type=fleet.TYPE,
            region=fleet.REGION,
            az=fleet.ZONES[0],
            mode="spot",
            issue_agent_token=True,
        )
        made: agent_pb2.RegisterResponse = await agent_pb2_grpc.AgentServiceStub(
            self.plane.channel
        ).Register(request, metadata=tenant.metadata)
        return made

    async def _catalogue(self) -> None:
        things = Things(self._send)
        for name in ("sold", "model"):
            await things.get(name)
        for name, known in (
            ("region", "regions"),
            ("region", "region_id"),
            ("region_code", "region_code"),
            ("region_code", "region"),
            ("instance_type", "instance-types"),
            ("model", "models"),
            ("model", "model_id"),
        ):
            self.pools.add(known, await things.get(name))

    async def _send(self, method: str, path: str, *, headers: Headers, json: object) -> Any:
        async with self.http.request(
            method, self.base + path, headers=headers, json=json
        ) as answer:
            reply = await answer.json()
            assert answer.status < 300, reply
            return reply
