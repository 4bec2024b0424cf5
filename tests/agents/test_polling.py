"""Agents that poll: whose word counts for what, and which instance an agent is on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from spotplane.v1 import agent_pb2 as pb
from spotplane.v1 import agent_pb2_grpc
from spotplane_server.agents import access, merge, queries
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.commands.store import Order
from spotplane_server.agents.switch_requests import Asked, Target
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.request_context import TenantId

from tests.support.clock import FakeClock
from tests.support.fleet import TYPE, ZONES, Calls
from tests.support.link import Hand, listening, run_job
from tests.support.market import put_prices
from tests.support.plane import ADMIN, Plane, bearer, refused, running

SILENCE = timedelta(seconds=121)
ON_DEMAND = {"target_mode": "ondemand"}


class Poller:
    """One agent that polls."""

    def __init__(self, hand: Hand, agent_id: str) -> None:
        self.hand = hand
        self.id = agent_id

    async def beat(self, status: str = "online", **more: Any) -> pb.HeartbeatResponse:
        """Send a heartbeat."""
        request = pb.HeartbeatRequest(agent_id=self.id, status=status, **more)
        answer: pb.HeartbeatResponse = await self.hand.stub.Heartbeat(
            request, metadata=self.hand.metadata
        )
        return answer

    async def poll(self, plane: Plane | None = None, **more: Any) -> pb.LeasedCommand | None:
        """Poll once, at another server when one is given."""
        stub = stub_of(plane) if plane else self.hand.stub
        answer = await stub.LeaseCommands(
            pb.LeaseCommandsRequest(agent_id=self.id, **more), metadata=self.hand.metadata
        )
        return answer.commands[0] if answer.commands else None

    async def issue(self, kind: str = "switch", priority: int = 75, **given: Any) -> pb.Command:
        """Issue a command."""
        request = pb.IssueCommandRequest(agent_id=self.id, type=kind, priority=priority)
        request.parameters.update(given or ON_DEMAND)
        issued: pb.Command = await self.hand.stub.IssueCommand(request, metadata=self.hand.metadata)
        return issued

    async def complete(self, command_id: str, **more: Any) -> str:
        """Report a result; the command's state."""
        request = pb.CompleteCommandRequest(agent_id=self.id, command_id=command_id, **more)
        done = await self.hand.stub.CompleteCommand(request, metadata=self.hand.metadata)
        return str(done.status)

    async def seen(self) -> pb.Agent:
        """The agent as it is."""
        found: pb.Agent = await self.hand.stub.GetAgent(
            pb.GetAgentRequest(agent_id=self.id), metadata=self.hand.metadata
        )
        return found

    async def command(self, command_id: str) -> pb.Command:
        """One of its commands."""
        found: pb.Command = await self.hand.stub.GetCommand(
            pb.GetCommandRequest(agent_id=self.id, command_id=command_id),
            metadata=self.hand.metadata,
        )
        return found


def stub_of(plane: Plane) -> Any:
    """A stub on another server."""
    return plane.stub(agent_pb2_grpc.AgentServiceStub)


@pytest.fixture
async def agent(hand: Hand) -> Poller:
    """An agent on `i-1`, registered."""
    registered = await hand.register("i-1")
    return Poller(hand, registered.agent_id)


async def status_of(plane: Plane, instance_id: str) -> str:
    """An instance's state."""
    async with plane.db.connection(ALL_TENANTS) as conn:
        return str(await conn.fetchval("SELECT status FROM instances WHERE id = $1", instance_id))


async def test_displaced_primary_is_spared(plane: Plane, hand: Hand, agent: Poller) -> None:
    """Two processes may share a name: only a word about itself may end the one that lost."""
    await hand.register("i-2")
    async with plane.db.connection(ALL_TENANTS) as conn:
        row = await conn.fetchrow("SELECT status, spared FROM instances WHERE id = 'i-1'")
        told = await conn.fetchval(
            "SELECT data FROM outbox_events WHERE event_type = 'agent.registered'"
            " ORDER BY seq DESC LIMIT 1"
        )
    assert row is not None
    assert (row["status"], row["spared"]) == ("zombie", True)
    assert (told["new"], told["displaced_instance_id"]) == (False, "i-1")


async def test_prices_of_the_first_sight_are_kept(plane: Plane, hand: Hand) -> None:
    """Those of the market, or the product's own until it has some."""
    await hand.register("i-1")
    await put_prices(plane, on_demand=1_000_000_000)
    await hand.register("i-2", name="search")
    async with plane.db.connection(ALL_TENANTS) as conn:
        rows = await conn.fetch(
            "SELECT baseline_price_nanousd, first_spot_price_nanousd FROM instances ORDER BY id"
        )
    assert [tuple(row) for row in rows] == [
        (41_600_000, 12_480_000),
        (1_000_000_000, 300_000_000),
    ]


async def test_candidate_serves_once_the_launch_is_over_and_the_primary_silent(
    hand: Hand, agent: Poller, clock: FakeClock
) -> None:
    """By its next heartbeat; not while the primary lives, and not while a switch is leased."""
    switch = await agent.issue()
    assert await agent.poll() is not None
    assert (await hand.register("i-2")).message.startswith("recorded as a candidate")

    clock.advance(SILENCE)
    assert (await agent.beat(instance_id="i-2")).config.enabled is False  # a switch is leased
    await agent.complete(switch.id, success=False)
    await agent.beat(instance_id="i-1")
    await agent.beat(instance_id="i-2")
    assert (await agent.seen()).instance_id == "i-1"  # the primary lives

    clock.advance(SILENCE)
    assert (await agent.beat(instance_id="i-2")).config.enabled is True
    assert (await agent.seen()).instance_id == "i-2"


async def test_pending_switch_makes_no_candidates(hand: Hand, agent: Poller) -> None:
    """Nobody launches yet, so an unknown instance has moved; the order has lost its sense."""
    switch = await agent.issue()
    assert (await hand.register("i-2")).desired_state.role == "primary"
    assert (await agent.command(switch.id)).status == "cancelled"


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("online", "online"),
        ("running", "online"),
        ("offline", "offline"),
        ("stopping", "offline"),
        ("stopped", "offline"),
        ("terminated", "offline"),
        ("error", "error"),
        ("disabled", "disabled"),
        ("switching", "switching"),
        ("deleted", "online"),
        ("what?", "online"),
    ],
)
async def test_words_of_the_field(agent: Poller, word: str, shown: str) -> None:
    """`deleted` is never taken from an agent."""
    await agent.beat(word, instance_id="i-1")
    assert (await agent.seen()).status == shown


async def test_disabled_agent_that_lives_shows_disabled(calls: Calls, agent: Poller) -> None:
    """Whatever it says but goodbye."""
    await calls.configure(agent.id, enabled=False)
    for word in ("online", "switching", "error"):
        await agent.beat(word)
        assert (await agent.seen()).status == "disabled"
    await agent.beat("offline")
    assert (await agent.seen()).status == "offline"


async def test_heartbeat_overwrites_what_it_tells(agent: Poller) -> None:
    """And leaves alone what it does not."""
    await agent.beat(mode="ondemand", az=ZONES[2])
    seen = await agent.seen()
    assert (seen.mode, seen.az, seen.instance_type) == ("ondemand", ZONES[2], TYPE)
    await agent.beat(mode="spot", pool_id="g5.xlarge.us-east-1b")
    seen = await agent.seen()
    assert (seen.mode, seen.pool_id) == ("spot", "g5.xlarge.us-east-1b")


async def test_heartbeat_of_another_instance_changes_its_own_life_only(
    plane: Plane, hand: Hand, agent: Poller
) -> None:
    """Named by itself or by what it watches; an unknown one changes nothing."""
    await hand.register("i-2")
    for named in ({"instance_id": "i-1"}, {"monitored_instances": ["i-1"]}):
        for word in ("offline", "online"):
            answer = await agent.beat(word, mode="ondemand", **named)
            assert answer.config.enabled is False
    await agent.beat("offline", instance_id="i-unknown")
    seen = await agent.seen()
    assert (seen.status, seen.instance_id, seen.mode) == ("online", "i-2", "spot")
    assert await status_of(plane, "i-1") == "zombie"


async def test_first_anonymous_goodbye_after_a_switch_is_the_old_process(
    plane: Plane, hand: Hand, agent: Poller
) -> None:
    """The second one is the primary's."""
    switch = await agent.issue()
    await agent.poll()
    await hand.register("i-2")
    assert await agent.complete(switch.id, instance_id="i-2") == "completed"
    assert (await agent.seen()).instance_id == "i-2"

    await agent.beat("offline")
    assert (await agent.seen()).status == "online"
    await agent.beat("offline")
    assert (await agent.seen()).status == "offline"


async def test_goodbye_that_nobody_waits_for_any_more_is_the_primarys(
    hand: Hand, agent: Poller, clock: FakeClock
) -> None:
    """It was owed for the wait and 900 seconds."""
    switch = await agent.issue()
    await agent.poll()
    await hand.register("i-2")
    await agent.complete(switch.id, instance_id="i-2")
    clock.advance(timedelta(seconds=300 + 900 + 1))

    await agent.beat("offline")

    assert (await agent.seen()).status == "offline"


async def test_inventory_confirms_that_a_zombie_has_ended(
    plane: Plane, hand: Hand, agent: Poller
) -> None:
    """The primary's end is not taken from it, nor another agent's instance."""
    await hand.register("i-2")
    await hand.register("i-3", name="search")
    listed = [
        pb.HeartbeatRequest.InventoryInstance(instance_id=name, state="terminated")
        for name in ("i-1", "i-2", "i-3")
    ]
    await agent.beat(instance_id="i-2", inventory=listed)
    states = [await status_of(plane, name) for name in ("i-1", "i-2", "i-3")]
    assert states == ["terminated", "running_primary", "running_primary"]


async def test_silence_and_a_word_are_edges(plane: Plane, agent: Poller, clock: FakeClock) -> None:
    """Offline after 120 seconds, online again by the next heartbeat."""
    await listening(plane)
    clock.advance(SILENCE)
    await _keep(plane)
    await run_job(plane, "agent-liveness")
    assert (await agent.seen()).status == "offline"
    await agent.beat()
    assert (await agent.seen()).status == "online"


async def _keep(plane: Plane) -> None:
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute("UPDATE heartbeat_collection SET since = '-infinity', seen_at = now()")


async def test_agent_with_a_stream_polls_nothing(hand: Hand, agent: Poller) -> None:
    """It gets its commands there; a poll does not make a stream that ended look alive."""
    stream = await hand.connect(agent.id, "i-1")
    issued = await agent.issue("terminate", instance_id="i-9")
    assert await agent.poll(dialect="action") is None
    assert (await stream.hear("command")).command_id == issued.id


async def test_restarted_agent_does_not_get_a_leased_command_again(
    hand: Hand, agent: Poller
) -> None:
    """Only an emergency comes back at once."""
    plain = await agent.issue()
    assert await agent.poll() is not None
    await hand.register("i-1")
    assert await agent.poll() is None
    await agent.complete(plain.id, success=False)

    urgent = await agent.issue(priority=100)
    assert await agent.poll() is not None
    assert await agent.poll() is None
    await hand.register("i-1")
    again = await agent.poll()
    assert again is not None
    assert again.id == urgent.id


async def test_lease_is_as_long_as_the_wait_and_ten_minutes(
    plane: Plane, agent: Poller, clock: FakeClock
) -> None:
    """Then it is delivered once more, and then it expires."""
    issued = await agent.issue(target_mode="ondemand", terminate_wait_seconds=1000)
    assert await agent.poll() is not None
    clock.advance(timedelta(seconds=1590))
    await run_job(plane, "commands")
    assert await agent.poll() is None
    assert (await agent.seen()).status == "switching"

    clock.advance(timedelta(seconds=11))
    await run_job(plane, "commands")
    assert (await agent.seen()).status == "online"
    assert await agent.poll() is not None
    clock.advance(timedelta(seconds=1601))
    await run_job(plane, "commands")
    assert (await agent.command(issued.id)).status == "expired"
    assert (await agent.seen()).status == "online"


async def test_emergency_is_delivered_three_times_and_to_a_disabled_agent(
    plane: Plane, hand: Hand, calls: Calls, agent: Poller
) -> None:
    """Each time its instance registers again."""
    await calls.configure(agent.id, enabled=False)
    urgent = await agent.issue(priority=100)
    for _ in range(3):
        leased = await agent.poll()
        assert leased is not None
        assert leased.id == urgent.id
        await hand.register("i-1")
    assert await agent.poll() is None


async def test_poll_by_name_gets_what_is_bound_to_it(hand: Hand, agent: Poller) -> None:
    """An instance that does not serve gets nothing, whoever it says it is."""
    await hand.register("i-2")
    await agent.issue()
    assert await agent.poll(instance_id="i-1") is None
    assert await agent.poll(instance_id="i-9") is None
    assert await agent.poll(instance_id="i-2") is not None


async def test_anonymous_poll_from_a_retired_instances_address_gets_nothing(
    hand: Hand,
) -> None:
    """Unless the primary has the same one."""
    first = await hand.register("i-1", private_ip="127.0.0.1")
    agent = Poller(hand, first.agent_id)
    await hand.register("i-2", private_ip="10.0.0.2")
    await agent.issue()
    assert await agent.poll() is None
    config = await hand.stub.GetAgentConfig(
        pb.GetAgentConfigRequest(agent_id=agent.id), metadata=hand.metadata
    )
    assert (config.enabled, config.auto_switch_enabled) == (False, True)
    await hand.register("i-2", private_ip="127.0.0.1")
    assert await agent.poll() is not None


async def test_delivered_command_waits_for_a_name_while_a_candidate_is_about(
    plane: Plane, hand: Hand, agent: Poller, clock: FakeClock
) -> None:
    """Or the candidate would carry it out a second time."""
    await agent.issue()
    await agent.poll()
    await hand.register("i-2")
    clock.advance(timedelta(seconds=601))
    await run_job(plane, "commands")

    assert await agent.poll() is None
    assert await agent.poll(instance_id="i-1") is not None


async def test_two_servers_lease_a_command_once(
    plane: Plane, agent: Poller, clock: FakeClock
) -> None:
    """However many ask at the same time."""
    async with running(plane.database_url, clock) as second:
        await agent.issue()
        got = await asyncio.gather(*(agent.poll(at) for at in (plane, second) * 5))
    assert len([command for command in got if command]) == 1


async def test_replicas_come_by_one_way_only(
    plane: Plane, hand: Hand, agent: Poller, clock: FakeClock
) -> None:
    """By command to whoever does not ask for its replicas, and not before it had time to ask."""
    await _order(plane, agent, "create_replica")
    assert await agent.poll() is None  # it has only just registered
    clock.advance(timedelta(seconds=61))
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute("UPDATE agents SET replicas_polled_at = $1", clock.now())
    assert await agent.poll() is None
    clock.advance(timedelta(minutes=5, seconds=1))
    got = await agent.poll()
    assert got is not None
    assert got.type == "create_replica"


async def _order(plane: Plane, agent: Poller, kind: str) -> None:
    ledger = Ledger(plane.db, plane.server.kernel.wakeups)
    tenant_id = TenantId(UUID(agent.hand.tenant.id))
    parameters = {"replica_id": "00000000-0000-4000-8000-000000000001"}
    order = Order(kind, kind, parameters, 75, "MANUAL", "test", None, timedelta(hours=1))
    async with plane.db.transaction(tenant_id) as conn:
        agent_id = UUID(agent.id)
        await ledger.issue(conn, tenant_id, agent_id, "i-1", order, plane.server.kernel.clock.now())


async def test_younger_agent_takes_the_place_of_the_older(
    plane: Plane, hand: Hand, clock: FakeClock
) -> None:
    """Configuration, instances and past; the older one's last words are still answered."""
    older = Poller(hand, (await hand.register("i-1", name="")).agent_id)
    await hand.stub.UpdateAgentConfig(
        pb.UpdateAgentConfigRequest(agent_id=older.id, terminate_wait_seconds=77),
        metadata=hand.metadata,
    )
    switch = await older.issue()
    await older.poll()
    younger = Poller(hand, (await hand.register("i-2", name="")).agent_id)
    assert younger.id != older.id

    tenant_id = TenantId(UUID(hand.tenant.id))

    async def inherit(*_args: Any) -> None:
        pass

    async with plane.db.transaction(tenant_id) as conn:
        await access.lock(conn, UUID(older.id))
        await merge.supersede(
            conn,
            tenant_id,
            UUID(older.id),
            UUID(younger.id),
            inherit=inherit,
            consent=False,
            now=clock.now(),
        )

    seen = await younger.seen()
    assert (seen.instance_id, seen.config.terminate_wait_seconds) == ("i-2", 77)
    async with plane.db.connection(ALL_TENANTS) as conn:
        owners = await conn.fetch("SELECT id, agent_id::text, status FROM instances ORDER BY id")
        reason = await conn.fetchval(
            "SELECT deleted_reason FROM agents WHERE id = $1", UUID(older.id)
        )
    assert [tuple(row) for row in owners] == [
        ("i-1", younger.id, "zombie"),
        ("i-2", younger.id, "running_primary"),
    ]
    assert reason == "superseded"
    assert await older.complete(switch.id) == "completed"
    assert (await older.beat("offline")).config.enabled is False
    assert (await younger.seen()).status == "online"
    async with refused("AGENT_NOT_FOUND"):
        await older.beat("online")


async def test_instance_that_another_agent_switched_to_is_that_agents(
    hand: Hand, agent: Poller
) -> None:
    """Whatever it calls itself once it boots: its instance is known."""
    switch = await agent.issue()
    await agent.poll(dialect="action")
    await agent.complete(switch.id, instance_id="i-2")
    assert (await agent.seen()).instance_id == "i-2"

    registered = await hand.register("i-2", name="")

    assert registered.agent_id == agent.id
    assert registered.config.enabled is True


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("AUTOMATIC", "AUTOMATIC", "SWITCH_IN_PROGRESS"),
        ("AUTOMATIC", "MANUAL", "displaced"),
        ("MANUAL", "MANUAL", "SWITCH_IN_PROGRESS"),
        ("MANUAL", "AUTOMATIC", "SWITCH_IN_PROGRESS"),
        ("MANUAL", "EMERGENCY", "displaced"),
        ("EMERGENCY", "EMERGENCY", "displaced"),
        ("EMERGENCY", "MANUAL", "SWITCH_IN_PROGRESS"),
    ],
)
async def test_whose_switch_beats_whose(
    plane: Plane, agent: Poller, first: Any, second: Any, outcome: str
) -> None:
    """While the open one waits; the same target answers the open one."""
    await put_prices(plane)
    opened = await queue(plane, agent, Target("spot", f"{TYPE}.{ZONES[1]}"), first)
    again = await queue(plane, agent, Target("spot", f"{TYPE}.{ZONES[1]}"), first)
    assert (again.command.id, again.fresh) == (opened.command.id, False)
    other = Target("spot", f"{TYPE}.{ZONES[2]}")
    if outcome == "displaced":
        fresh = await queue(plane, agent, other, second)
        assert fresh.fresh
        assert (await agent.command(str(opened.command.id))).status == "cancelled"
        assert fresh.command.request_id == str(fresh.command.id)
    else:
        with pytest.raises(Exception, match="another switch") as caught:
            await queue(plane, agent, other, second)
        assert getattr(caught.value, "reason", None) == outcome


async def test_switch_that_is_under_way_gives_way_to_nothing(plane: Plane, agent: Poller) -> None:
    """Not even to an emergency: it might launch twice."""
    await put_prices(plane)
    await queue(plane, agent, Target("ondemand"), "AUTOMATIC")
    assert await agent.poll() is not None
    with pytest.raises(Exception, match="another switch"):
        await queue(plane, agent, Target("spot", f"{TYPE}.{ZONES[2]}"), "EMERGENCY")


async def test_target_that_is_gone_is_not_delivered(plane: Plane, agent: Poller) -> None:
    """It is checked when it is queued and again when it is delivered."""
    with pytest.raises(Exception, match="no such pool"):
        await queue(plane, agent, Target("spot", "x.y"), "MANUAL")
    with pytest.raises(Exception, match="needs a pool"):
        await queue(plane, agent, Target("spot"), "MANUAL")
    await put_prices(plane)
    queued = await queue(plane, agent, Target("spot", f"{TYPE}.{ZONES[1]}"), "MANUAL")
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute("UPDATE pools SET price_nanousd = NULL")
    assert await agent.poll() is None
    assert (await agent.command(str(queued.command.id))).status == "cancelled"


async def test_wait_needs_consent(plane: Plane, calls: Calls, agent: Poller) -> None:
    """0 without it, and for emergencies."""
    queued = await queue(plane, agent, Target("ondemand"), "MANUAL")
    assert queued.command.parameters["terminate_wait_seconds"] == 300
    urgent = await queue(plane, agent, Target("ondemand"), "EMERGENCY")
    assert urgent.command.parameters["terminate_wait_seconds"] == 0
    assert (urgent.command.expires_at - urgent.command.created_at) == timedelta(minutes=5)


async def test_turning_automatic_switching_off_cancels_what_it_had_queued(
    plane: Plane, calls: Calls, agent: Poller
) -> None:
    """And manual mode does so too, by turning it off."""
    queued = await queue(plane, agent, Target("ondemand"), "AUTOMATIC")
    await calls.configure(agent.id, manual_replica_enabled=True)
    assert (await agent.command(str(queued.command.id))).status == "cancelled"


async def test_every_effective_change_is_audited_with_old_and_new(
    plane: Plane, calls: Calls, agent: Poller
) -> None:
    """Once each, beside one event."""
    await calls.configure(agent.id, terminate_wait_minutes=5)  # as it is
    await calls.configure(agent.id, enabled=False)
    async with plane.db.connection(ALL_TENANTS) as conn:
        rows = await conn.fetch(
            "SELECT before, after FROM audit_logs WHERE action = 'agent.update_config'"
        )
        kinds = await conn.fetch(
            "SELECT event_type FROM outbox_events"
            " WHERE event_type IN ('agent.toggled', 'config.changed') ORDER BY seq"
        )
    assert [tuple(row) for row in rows] == [({"enabled": True}, {"enabled": False})]
    assert [row["event_type"] for row in kinds] == ["agent.toggled", "config.changed"]


async def test_leftovers_of_a_deleted_agent_are_told_of_after_a_day(
    plane: Plane, hand: Hand, agent: Poller, clock: FakeClock
) -> None:
    """Once, as an error."""
    await hand.stub.DeleteAgent(pb.DeleteAgentRequest(agent_id=agent.id), metadata=hand.metadata)
    assert await run_job(plane, "agent-leftovers") == 0
    clock.advance(timedelta(hours=24, seconds=1))
    assert await run_job(plane, "agent-leftovers") == 1
    assert await run_job(plane, "agent-leftovers") == 0


async def test_deleted_agent_is_remembered_for_its_replicas_only(
    plane: Plane, hand: Hand, agent: Poller, clock: FakeClock
) -> None:
    """As long as one is unconfirmed, and a day at most."""
    agent_id, now = UUID(agent.id), clock.now()
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute(
            "INSERT INTO replicas (tenant_id, id, agent_id, instance_id, bound, type, status,"
            " pool_id, instance_type, region, az, created_by, created_at, updated_at)"
            " VALUES ($1, $2, $3, 'i-r', true, 'manual', 'ready', 'p', 'g5.xlarge', 'us-east-1',"
            " 'us-east-1b', 'test', $4, $4)",
            UUID(hand.tenant.id),
            uuid4(),
            agent_id,
            now,
        )
    await hand.stub.DeleteAgent(pb.DeleteAgentRequest(agent_id=agent.id), metadata=hand.metadata)
    async with plane.db.transaction(ALL_TENANTS) as conn:
        assert await conn.fetchval("SELECT status FROM replicas") == "terminated"
        assert (await access.get_even_deleted(conn, agent_id, now)).status == "deleted"
        assert (await access.lock_even_deleted(conn, agent_id, now)).id == agent_id
        assert await queries.get(conn, agent_id, now) is None
        later = now + timedelta(hours=24, seconds=1)
        assert await queries.get(conn, agent_id, now, deleted_since=later) is None
        await conn.execute("UPDATE replicas SET termination_confirmed = true")
        with pytest.raises(Exception, match="no such agent"):
            await access.get_even_deleted(conn, agent_id, now)


async def test_parallel_registrations_do_not_exceed_the_quota(plane: Plane, hand: Hand) -> None:
    """Ten at once for two places."""
    await hand.stub.UpdateFleetSettings(
        pb.UpdateFleetSettingsRequest(tenant_id=hand.tenant.id, max_agents=2), metadata=ADMIN
    )
    answers = await asyncio.gather(
        *(hand.register(f"i-{n}", name=f"a-{n}") for n in range(10)), return_exceptions=True
    )
    assert len([answer for answer in answers if not isinstance(answer, BaseException)]) == 2


async def test_retired_instance_cannot_take_the_credential(plane: Plane, hand: Hand) -> None:
    """It asks, it gets none, and the primary's goes on working."""
    await hand.register("i-1")
    issued = await hand.register("i-2", issue_agent_token=True)
    asked = await hand.register("i-1", issue_agent_token=True)
    assert asked.agent_token == ""
    own = Hand(plane, hand.tenant, bearer(issued.agent_token))
    await own.register("i-2")


async def test_finished_commands_are_forgotten_after_a_week(
    plane: Plane, agent: Poller, clock: FakeClock
) -> None:
    """With their stories; open ones stay."""
    done = await agent.issue()
    await agent.poll()
    await agent.complete(done.id)
    clock.advance(timedelta(days=7, hours=1))
    kept = await agent.issue("terminate")
    retention: Any = next(j for j in plane.server.parts.jobs if j.name == "retention")
    await retention.forget(clock.now())
    async with plane.db.connection(ALL_TENANTS) as conn:
        rows = await conn.fetch("SELECT id::text FROM agent_commands")
        events = await conn.fetchval(
            "SELECT count(*) FROM agent_command_events WHERE command_id::text = $1", done.id
        )
    assert [row["id"] for row in rows] == [kept.id]
    assert events == 0


async def queue(plane: Plane, agent: Poller, target: Target, trigger: Any) -> Any:
    """Queue a switch as other features do."""
    ledger = Ledger(plane.db, plane.server.kernel.wakeups)
    priority = {"AUTOMATIC": 25, "MANUAL": 75, "EMERGENCY": 100}[trigger]
    async with plane.db.transaction(ALL_TENANTS) as conn:
        locked = await access.lock(conn, UUID(agent.id))
        return await ledger.queue_switch(
            conn,
            locked,
            target,
            Asked(trigger, priority, "test"),
            plane.server.kernel.clock.now(),
        )
