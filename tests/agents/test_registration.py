"""Which agent an instance belongs to, and what it is there."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import grpc
import pytest
from spotplane.v1 import agent_pb2 as pb

from tests.support.fleet import REGION, TYPE, ZONES, Calls
from tests.support.link import Hand
from tests.support.plane import ADMIN, Plane, bearer, refusal, refused


async def test_first_instance_creates_the_agent(hand: Hand, calls: Calls) -> None:
    """It is the agent's primary, with the default configuration."""
    answer = await hand.register("i-1", hostname="web", agent_version="1.0")

    assert answer.tenant_id == hand.tenant.id
    assert answer.desired_state.role == "primary"
    assert answer.desired_state.config.config_version == 1
    agent = await calls.agent(answer.agent_id)
    assert (agent.status, agent.instance_id, agent.mode) == ("online", "i-1", "spot")
    assert agent.pool_id == f"{TYPE}.{ZONES[0]}"
    assert (agent.hostname, agent.agent_version) == ("web", "1.0")


async def test_registering_again_changes_nothing(hand: Hand) -> None:
    """The same agent, the same role."""
    first = await hand.register("i-1")
    again = await hand.register("i-1")

    assert again.agent_id == first.agent_id
    assert again.desired_state.generation == first.desired_state.generation


async def test_name_defaults_to_the_instance(hand: Hand, calls: Calls) -> None:
    """Who has no name is called as its instance."""
    answer = await hand.register("i-1", name="")

    assert (await calls.agent(answer.agent_id)).logical_agent_id == "i-1"


async def test_unknown_instance_moves_the_agent(hand: Hand, calls: Calls) -> None:
    """The new one serves, the former primary is retired."""
    first = await hand.register("i-1")
    moved = await hand.register("i-2", zone=ZONES[1])

    assert moved.agent_id == first.agent_id
    assert moved.desired_state.role == "primary"
    assert (await hand.register("i-1")).desired_state.role == "retired"
    assert (await calls.agent(first.agent_id)).instance_id == "i-2"


async def test_zombie_that_registers_again_stays_one(hand: Hand, calls: Calls) -> None:
    """An old machine that boots again does not take the agent back."""
    first = await hand.register("i-1")
    await hand.register("i-2")

    again = await hand.register("i-1")

    assert "zombie" in again.message
    assert (await calls.agent(first.agent_id)).instance_id == "i-2"


async def test_instance_is_a_candidate_while_a_launch_is_open(hand: Hand, calls: Calls) -> None:
    """It may be what the launch will yield, so it does not take over."""
    agent_id, stream = await hand.start("i-1")
    switch = pb.IssueCommandRequest(agent_id=agent_id, type="switch")
    await hand.stub.IssueCommand(switch, metadata=hand.metadata)
    await stream.hear("command")

    answer = await hand.register("i-2")

    assert answer.desired_state.role == "candidate"
    assert (await calls.agent(agent_id)).instance_id == "i-1"


async def test_instance_of_another_agent_is_refused(hand: Hand) -> None:
    """One instance, one agent."""
    await hand.register("i-1", name="chat")

    async with refused("INSTANCE_TAKEN"):
        await hand.register("i-1", name="search")


async def test_two_tenants_may_have_the_same_names(plane: Plane, hand: Hand) -> None:
    """Neither agents nor instances are shared between tenants."""
    other = Hand(plane, await plane.tenant())

    mine, theirs = await hand.register("i-1"), await other.register("i-1")

    assert mine.agent_id != theirs.agent_id


async def test_parallel_first_registrations_make_one_agent(hand: Hand, calls: Calls) -> None:
    """Fifty instances at once under one name: one agent, one primary."""
    answers = await asyncio.gather(*(hand.register(f"i-{n}") for n in range(50)))

    assert len({answer.agent_id for answer in answers}) == 1
    roles = [(await hand.register(f"i-{n}")).desired_state.role for n in range(50)]
    assert sorted(set(roles)) == ["primary", "retired"]
    assert roles.count("primary") == 1


async def test_parallel_registrations_of_one_instance_make_one_agent(hand: Hand) -> None:
    """An agent that retries while its first call is still under way."""
    answers = await asyncio.gather(*(hand.register("i-1") for _ in range(20)))

    assert len({answer.agent_id for answer in answers}) == 1
    assert {answer.desired_state.role for answer in answers} == {"primary"}


BAD_FIELDS = [
    ("instance_id", ""),
    ("instance_id", "i" * 129),
    ("instance_type", ""),
    ("region", "r" * 65),
    ("az", ""),
    ("mode", "dedicated"),
    ("hostname", "h" * 256),
    ("agent_version", "v" * 33),
    ("replica_id", "none"),
    ("logical_agent_id", "n" * 256),
    ("private_ip", "1" * 46),
    ("image_id", "a" * 65),
]


async def test_bad_field_is_named(hand: Hand) -> None:
    """What is missing, too long or of no known value is refused by its name."""
    for field, value in BAD_FIELDS:
        request = pb.RegisterRequest(
            instance_id="i-1", instance_type=TYPE, region=REGION, az=ZONES[0]
        )
        setattr(request, field, value)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hand.stub.Register(request, metadata=hand.metadata)
        said = refusal(caught.value)
        assert (said.code, said.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_claim_of_another_tenant_is_refused(hand: Hand) -> None:
    """A tenant key cannot register for another tenant."""
    async with refused("TENANT_MISMATCH"):
        await hand.register("i-1", tenant_id=str(uuid4()))


async def test_administrator_registers_for_a_named_tenant(plane: Plane, hand: Hand) -> None:
    """Administrators have no tenant of their own."""
    admin = Hand(plane, hand.tenant, ADMIN)

    answer = await admin.register("i-1", tenant_id=hand.tenant.id)
    assert answer.tenant_id == hand.tenant.id
    async with refused("MISSING_FIELD", field="tenant_id"):
        await admin.register("i-2")


async def test_agents_own_credential_registers_itself_only(plane: Plane, hand: Hand) -> None:
    """Its own name, no other."""
    issued = await hand.register("i-1", issue_agent_token=True)
    own = Hand(plane, hand.tenant, bearer(issued.agent_token))

    assert (await own.register("i-1")).agent_id == issued.agent_id
    async with refused("AGENT_NOT_FOUND"):
        await own.register("i-2", name="search")


async def test_agents_own_credential_opens_its_own_agent_only(plane: Plane, hand: Hand) -> None:
    """Reads and streams of another agent look as if there were none."""
    issued = await hand.register("i-1", issue_agent_token=True)
    other = await hand.register("i-2", name="search")
    own = Hand(plane, hand.tenant, bearer(issued.agent_token))
    try:
        await own.connect(issued.agent_id, "i-1")
        stranger = own.dial()
        await stranger.say(hello={"agent_id": other.agent_id, "instance_id": "i-2"})

        said = await stranger.end()
        assert said is not None
        assert said.reason == "AGENT_NOT_FOUND"
        async with refused("AGENT_NOT_FOUND"):
            await own.stub.GetAgent(
                pb.GetAgentRequest(agent_id=other.agent_id), metadata=own.metadata
            )
    finally:
        await own.close()


async def test_agents_own_credential_dies_when_another_is_issued(plane: Plane, hand: Hand) -> None:
    """On every server, at once."""
    old = (await hand.register("i-1", issue_agent_token=True)).agent_token
    own = Hand(plane, hand.tenant, bearer(old))
    await own.register("i-1")

    new = (await hand.register("i-1", issue_agent_token=True)).agent_token

    async with refused("AGENT_CREDENTIAL_INVALID"):
        await own.register("i-1")
    await Hand(plane, hand.tenant, bearer(new)).register("i-1")


async def test_deleted_agents_name_is_free_again(hand: Hand) -> None:
    """The same name, on the same instance, registers anew as another agent."""
    agent_id, stream = await hand.start("i-1")
    await hand.stub.DeleteAgent(pb.DeleteAgentRequest(agent_id=agent_id), metadata=hand.metadata)

    said = await stream.end()
    assert said is not None
    assert said.reason == "AGENT_NOT_FOUND"
    again = await hand.register("i-1")
    assert again.agent_id != agent_id
    assert again.desired_state.role == "primary"
