"""What another tenant owns is not there: the same answer as for an id that nobody has."""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from spotplane.v1 import agent_pb2, agent_pb2_grpc
from spotplane_server.kernel.auth import policy

from tests.invariants import rpcs
from tests.support.plane import Metadata, Plane, Refusal, Tenant, bearer

INSERT_REPLICA: Final = """
    INSERT INTO replicas (tenant_id, id, agent_id, instance_id, type, status, pool_id,
                          instance_type, region, az, created_by, created_at, updated_at)
    VALUES ($1, $2, $3, $4, 'manual', 'failed', 'p', 'g5.xlarge', 'us-east-1', 'us-east-1b',
            'test', now(), now())
"""
INSERT_FAILOVER: Final = """
    INSERT INTO failovers (tenant_id, id, agent_id, instance_id, kind, status, detected_at)
    VALUES ($1, $2, $3, $4, 'drain', 'resolved', now())
"""
GET_ENVIRONMENT: Final = "SELECT id FROM environments WHERE tenant_id = $1"

OWNED: Final = {
    "agent_id",
    "command_id",
    "replica_id",
    "failover_id",
    "key_id",
    "environment_id",
    "hello",
}
# Stands for the instance of whoever is asked about.
OWN_INSTANCE: Final = "own instance"
# What a call needs besides, to get as far as looking for what it names.
ALSO: Final[dict[str, dict[str, Any]]] = {
    "AgentService/Register": {
        "instance_type": "g5.xlarge",
        "region": "us-east-1",
        "az": "us-east-1a",
    },
    "AgentService/UpdateAgentConfig": {"enabled": True},
    "AgentService/IssueCommand": {"name": "restart"},
    "FailoverService/ReportNotice": {"kind": "rebalance"},
    "DecisionService/IssueSwitch": {"target_mode": "ondemand"},
    "ApiKeyService/RotateOwnApiKey": {"grace_period_seconds": 1},
    "FleetService/ForceSwitch": {"target": "ondemand"},
    "FleetService/RegisterInstance": {
        "instance_id": "i-hand",
        "instance_type": "g5.xlarge",
        "region": "us-east-1",
        "az": "us-east-1a",
        "mode": "spot",
    },
    "FleetService/ReportInstanceLaunched": {"instance_id": "i-launched"},
    "FleetService/ReportInstanceTermination": {"instance_id": OWN_INSTANCE, "success": False},
    "FleetService/ReportSwitch": {"success": False},
    "ReplicaService/BindReplicaInstance": {"instance_id": "i-bound"},
    "ReplicaService/RegisterReplicaInstance": {"instance_id": "i-running"},
    "ReplicaService/ReportReplicaStatus": {"status": "ready"},
}
# Names a replica for a new instance: with a foreign one the instance is registered as any other.
LENIENT: Final = {"AgentService/Register", "AgentService/UninstallAgent"}
# What these say of a command is a hint: of one that is not the agent's nothing is taken.
HINTED: Final = {
    "FleetService/ReportInstanceLaunched",
    "FleetService/ReportInstanceTermination",
    "FleetService/ReportSwitch",
}


def naming(access: str) -> list[str]:
    """Methods that tenants, or agents by their own credential, call and that name what is owned."""
    return [
        name
        for name, rpc in rpcs.ALL.items()
        if getattr(policy.METHODS[rpc.path], access)
        and OWNED & {field.name for field in rpc.method.input_type.fields}
        and name not in LENIENT
    ]


class Estate:
    """One of everything that a tenant owns, by the field that names it; and its agent's token."""

    def __init__(self, owned: dict[str, Any], token: str) -> None:
        self.owned = owned
        self.token = token

    def request(self, name: str) -> dict[str, Any]:
        """A request of the method that names it all."""
        fields = {field.name for field in rpcs.ALL[name].method.input_type.fields}
        also = {
            k: self.owned["hello"]["instance_id"] if v == OWN_INSTANCE else v
            for k, v in ALSO.get(name, {}).items()
        }
        return {k: v for k, v in self.owned.items() if k in fields} | also

    def without(self, **other: Any) -> Estate:
        """The same with some of it replaced."""
        return Estate(self.owned | other, self.token)


def _hello(agent_id: str, instance_id: str) -> dict[str, Any]:
    return {"agent_id": agent_id, "instance_id": instance_id, "agent_version": "1"}


def nowhere() -> Estate:
    """Ids that nobody has."""
    names = OWNED - {"hello"}
    owned: dict[str, Any] = {name: str(uuid4()) for name in names}
    return Estate(owned | {"hello": _hello(owned["agent_id"], "i-none")}, "")


async def estate(plane: Plane, tenant: Tenant) -> Estate:
    """Let a tenant have one of everything."""
    stub = agent_pb2_grpc.AgentServiceStub(plane.channel)
    instance_id = f"i-{uuid4().hex[:17]}"
    agent = await stub.Register(
        agent_pb2.RegisterRequest(
            logical_agent_id=uuid4().hex,
            instance_id=instance_id,
            issue_agent_token=True,
            **ALSO["AgentService/Register"],
        ),
        metadata=tenant.metadata,
    )
    command = await stub.IssueCommand(
        agent_pb2.IssueCommandRequest(agent_id=agent.agent_id, name="restart"),
        metadata=tenant.metadata,
    )
    key = await plane.key(tenant.id)
    replica_id, failover_id = str(uuid4()), str(uuid4())
    owner = await asyncpg.connect(plane.database_url)
    try:
        common = (tenant.id, agent.agent_id)
        await owner.execute(INSERT_REPLICA, common[0], replica_id, common[1], f"r-{replica_id}")
        await owner.execute(INSERT_FAILOVER, common[0], failover_id, common[1], instance_id)
        environment_id = await owner.fetchval(GET_ENVIRONMENT, tenant.id)
    finally:
        await owner.close()
    owned = {
        "agent_id": agent.agent_id,
        "command_id": command.id,
        "replica_id": replica_id,
        "failover_id": failover_id,
        "key_id": key.id,
        "environment_id": str(environment_id),
        "hello": _hello(agent.agent_id, instance_id),
    }
    return Estate(owned, agent.agent_token)


def _told(said: Refusal | None, asked: dict[str, Any]) -> object:
    """What an answer tells, apart from its own id and from what it repeats of the request."""
    if said is None:
        return "OK"
    metadata = {
        k: v
        for k, v in said.metadata.items()
        if k != "correlation_id" and (k not in asked or v != asked[k])
    }
    return said.code.name, said.reason, said.message, metadata, list(said.fields)


async def _answers(plane: Plane, metadata: Metadata, wanted: Estate, name: str) -> object:
    request = wanted.request(name)
    return _told(await rpcs.ALL[name].ask(plane.channel, metadata, **request), request)


def _absent(told: object) -> bool:
    return isinstance(told, tuple) and told[0] == "NOT_FOUND"


async def test_another_tenants_things_are_not_found(plane: Plane) -> None:
    """Method by method: foreign is unknown, and the owner finds its own by the same request."""
    one, two = await plane.tenant(), await plane.tenant()
    for name in naming("roles"):
        mine = await estate(plane, one)

        foreign = await _answers(plane, two.metadata, mine, name)

        assert _absent(foreign), (name, foreign)
        assert foreign == await _answers(plane, two.metadata, nowhere(), name), name
        assert not _absent(await _answers(plane, one.metadata, mine, name)), name


async def test_another_agents_things_are_not_found_under_ones_own(plane: Plane) -> None:
    """An agent of one's own does not open a foreign command, replica or failover."""
    one, two = await plane.tenant(), await plane.tenant()
    mine, theirs, sibling = [await estate(plane, owner) for owner in (one, two, one)]
    inner = ("command_id", "replica_id", "failover_id")
    asked = 0
    for name in naming("roles"):
        if not any(field in mine.request(name) for field in inner):
            continue
        asked += 1
        unknown = mine.without(**{field: str(uuid4()) for field in inner})
        expected = await _answers(plane, one.metadata, unknown, name)
        for other in (theirs, sibling):
            mixed = mine.without(**{field: other.owned[field] for field in inner})
            assert await _answers(plane, one.metadata, mixed, name) == expected, name
        assert _absent(expected) or name in HINTED, (name, expected)
    assert asked >= 5


async def test_an_agents_own_credential_opens_that_agent_only(plane: Plane) -> None:
    """Another agent of the same tenant is not there for it."""
    tenant = await plane.tenant()
    mine, sibling = await estate(plane, tenant), await estate(plane, tenant)
    methods = naming("agent")
    assert len(methods) >= 5
    for name in methods:
        told = await _answers(plane, bearer(mine.token), sibling, name)
        assert _absent(told), (name, told)
        assert told == await _answers(plane, bearer(mine.token), nowhere(), name), name
        assert not _absent(await _answers(plane, bearer(mine.token), mine, name)), name


async def test_an_instance_is_not_bound_to_a_foreign_replica(plane: Plane) -> None:
    """Registering with another tenant's replica leaves that one as it was."""
    one, two = await plane.tenant(), await plane.tenant()
    mine = await estate(plane, one)
    name = "AgentService/Register"
    request = {"logical_agent_id": "chat", "instance_id": "i-thief"} | ALSO[name]

    await rpcs.ALL[name].ask(
        plane.channel, two.metadata, replica_id=mine.owned["replica_id"], **request
    )

    owner = await asyncpg.connect(plane.database_url)
    try:
        bound = await owner.fetchval(
            "SELECT bound FROM replicas WHERE id = $1", mine.owned["replica_id"]
        )
    finally:
        await owner.close()
    assert bound is False


CLAIMING: Final = [
    name
    for name, rpc in rpcs.ALL.items()
    if policy.METHODS[rpc.path].roles and "tenant_id" in rpc.method.input_type.fields_by_name
]


@pytest.mark.parametrize("name", CLAIMING)
async def test_a_key_that_claims_another_tenant_is_refused(plane: Plane, name: str) -> None:
    """The tenant is the key's; a claim must agree with it, whether that tenant exists or not."""
    roles = policy.METHODS[rpcs.ALL[name].path].roles
    one, two = await plane.tenant(), await plane.tenant(role=min(roles))
    request = {"logical_agent_id": "chat", "instance_id": "i-1"} | ALSO.get(name, {})
    fields = rpcs.ALL[name].method.input_type.fields_by_name
    request = {k: v for k, v in request.items() if k in fields}
    for claim in (one.id, str(uuid4())):
        said = await rpcs.ALL[name].ask(plane.channel, two.metadata, tenant_id=claim, **request)
        assert said is not None
        assert said.reason == "TENANT_MISMATCH", said
