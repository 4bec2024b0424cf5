"""What may happen to a fleet: each step is a message of the public interface, or a job's run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st
from spotplane.v1 import agent_pb2, failover_pb2, fleet_pb2, replica_pb2

from tests.states.world import AGENTS, INSTANCES, PARTS, Fleet
from tests.support.fleet import REGION, TYPE, ZONES
from tests.support.link import run_job
from tests.support.plane import ADMIN

POOLS = tuple(f"{TYPE}.{zone}" for zone in ZONES)
JOBS = (
    "replica-coordinator", "failover", "commands", "agent-liveness", "agent-leftovers",
    "switch-downtime", "zombie-report", "savings", "notifications", "partitions",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One thing that happens, made by a server for an agent; shown by a failing example."""

    do: Callable[..., Awaitable[Any]]
    agent: str
    about: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.do.__name__}({self.agent}, {', '.join(map(repr, self.about))})"

    async def __call__(self, fleet: Fleet, server: int) -> None:
        await self.do(fleet, server, self.agent, *self.about)


async def register(fleet: Fleet, server: int, name: str, who: str, mode: str) -> None:
    """An instance registers, perhaps again, perhaps one of another agent."""
    instance_id = await fleet.instance(await fleet.agent(name), who)
    if instance_id is None:
        return
    request = agent_pb2.RegisterRequest(
        logical_agent_id=name, instance_id=instance_id, mode=mode, **_place(instance_id)
    )
    await fleet.world.stubs[server].agents.Register(request, metadata=fleet.metadata)


async def register_replica(fleet: Fleet, server: int, name: str, who: str, number: int) -> None:
    """An instance registers as one of the agent's replicas."""
    replica = await fleet.replica(await fleet.agent(name), number)
    if replica is None:
        return
    request = agent_pb2.RegisterRequest(
        logical_agent_id=name,
        instance_id=fleet.real(who),
        replica_id=replica["id"],
        **_place(fleet.real(who)),
    )
    await fleet.world.stubs[server].agents.Register(request, metadata=fleet.metadata)


async def beat(fleet: Fleet, server: int, name: str, who: Any, word: str) -> None:
    """A heartbeat, of an instance or of nobody in particular."""
    agent_id = await fleet.agent(name)
    speaker = await fleet.instance(agent_id, who) if who else None
    request = agent_pb2.HeartbeatRequest(agent_id=agent_id, status=word, instance_id=speaker)
    await fleet.world.stubs[server].agents.Heartbeat(request, metadata=fleet.metadata)


async def leave(fleet: Fleet, server: int, name: str, who: Any) -> None:
    """A goodbye, with or without a name."""
    agent_id = await fleet.agent(name)
    speaker = await fleet.instance(agent_id, who) if who else None
    request = agent_pb2.ReportShutdownRequest(agent_id=agent_id, instance_id=speaker)
    await fleet.world.stubs[server].agents.ReportShutdown(request, metadata=fleet.metadata)


async def ended_itself(fleet: Fleet, server: int, name: str, who: Any) -> None:
    """An instance's last word; without a name it may be anybody's of the agent."""
    agent_id = await fleet.agent(name)
    speaker = await fleet.instance(agent_id, who) if who else None
    fleet.gone |= {speaker} if speaker else fleet.everyone
    request = agent_pb2.ReportTerminationRequest(agent_id=agent_id, instance_id=speaker)
    await fleet.world.stubs[server].agents.ReportTermination(request, metadata=fleet.metadata)


async def configure(fleet: Fleet, server: int, name: str, settings: dict[str, Any]) -> None:
    """A user changes the configuration."""
    request = agent_pb2.UpdateAgentConfigRequest(agent_id=await fleet.agent(name), **settings)
    await fleet.world.stubs[server].agents.UpdateAgentConfig(request, metadata=fleet.metadata)


async def delete(fleet: Fleet, server: int, name: str) -> None:
    """A user deletes the agent."""
    request = agent_pb2.DeleteAgentRequest(agent_id=await fleet.agent(name))
    await fleet.world.stubs[server].agents.DeleteAgent(request, metadata=fleet.metadata)


async def uninstall(fleet: Fleet, server: int, name: str) -> None:
    """The agent is removed from its machine."""
    request = agent_pb2.UninstallAgentRequest(agent_id=await fleet.agent(name), reason="removed")
    await fleet.world.stubs[server].agents.UninstallAgent(request, metadata=fleet.metadata)


async def issue(fleet: Fleet, server: int, name: str, key: str) -> None:
    """A user issues a command of the application's own."""
    request = agent_pb2.IssueCommandRequest(
        agent_id=await fleet.agent(name), name="greet", request_id=key
    )
    await fleet.world.stubs[server].agents.IssueCommand(request, metadata=fleet.metadata)


async def cancel(fleet: Fleet, server: int, name: str, number: int) -> None:
    """A user takes a command back."""
    agent_id = await fleet.agent(name)
    request = agent_pb2.CancelCommandRequest(
        agent_id=agent_id, command_id=await fleet.command(agent_id, number)
    )
    await fleet.world.stubs[server].agents.CancelCommand(request, metadata=fleet.metadata)


async def lease(fleet: Fleet, server: int, name: str, who: Any, dialect: str) -> None:
    """The agent polls for commands."""
    agent_id = await fleet.agent(name)
    speaker = await fleet.instance(agent_id, who) if who else None
    request = agent_pb2.LeaseCommandsRequest(
        agent_id=agent_id, instance_id=speaker, dialect=dialect
    )
    await fleet.world.stubs[server].agents.LeaseCommands(request, metadata=fleet.metadata)


async def complete(
    fleet: Fleet, server: int, name: str, number: int, success: bool, launched: Any
) -> None:
    """The agent says what came of a command."""
    agent_id = await fleet.agent(name)
    request = agent_pb2.CompleteCommandRequest(
        agent_id=agent_id,
        command_id=await fleet.command(agent_id, number),
        success=success,
        instance_id=fleet.real(launched) if launched else None,
    )
    await fleet.world.stubs[server].agents.CompleteCommand(request, metadata=fleet.metadata)


async def force(
    fleet: Fleet, server: int, name: str, who: str, target: str, auto_terminate: bool | None
) -> None:
    """A user orders a switch."""
    request = fleet_pb2.ForceSwitchRequest(
        instance_id=await fleet.instance(await fleet.agent(name), who),
        target="ondemand" if target == "ondemand" else "pool",
        pool_id=None if target == "ondemand" else target,
        auto_terminate=auto_terminate,
    )
    await fleet.world.stubs[server].fleet.ForceSwitch(request, metadata=fleet.metadata)


async def report_switch(
    fleet: Fleet, server: int, name: str, old: Any, new: str, number: int | None, how: str
) -> None:
    """The agent reports a switch, before or after its command's completion."""
    agent_id = await fleet.agent(name)
    left = await fleet.instance(agent_id, old) if old else None
    came = await fleet.instance(agent_id, new)
    if came is None:
        return
    request = fleet_pb2.ReportSwitchRequest(
        agent_id=agent_id,
        command_id=None if number is None else await fleet.command(agent_id, number),
        new_instance=_end(came),
        success=how != "failed",
    )
    if left is not None:
        request.old_instance.CopyFrom(_end(left))
    if how == "ended":
        request.timing.old_terminated_at.CopyFrom(_stamp(fleet))
        fleet.gone |= {left} if left else fleet.everyone
    await fleet.world.stubs[server].fleet.ReportSwitch(request, metadata=fleet.metadata)


async def doomed(fleet: Fleet, server: int, name: str) -> None:
    """The agent asks what it is to end; what serves is never among it."""
    request = fleet_pb2.ListInstancesToTerminateRequest(agent_id=await fleet.agent(name))
    answer = await fleet.world.stubs[server].fleet.ListInstancesToTerminate(
        request, metadata=fleet.metadata
    )
    assert len({found.instance_id for found in answer.instances}) == len(answer.instances)


async def ended(fleet: Fleet, server: int, name: str, who: str, success: bool) -> None:
    """The agent says that it has ended an instance, or that it could not."""
    agent_id = await fleet.agent(name)
    instance_id = await fleet.instance(agent_id, who)
    if instance_id is None:
        return
    if success:
        fleet.gone.add(instance_id)
    request = fleet_pb2.ReportInstanceTerminationRequest(
        agent_id=agent_id, instance_id=instance_id, success=success
    )
    await fleet.world.stubs[server].fleet.ReportInstanceTermination(
        request, metadata=fleet.metadata
    )


async def launched(fleet: Fleet, server: int, name: str, who: str, number: int | None) -> None:
    """The agent says that an instance runs, of its newest replica or of its switch."""
    agent_id = await fleet.agent(name)
    replica = await fleet.replica(agent_id, number) if number is not None else None
    request = fleet_pb2.ReportInstanceLaunchedRequest(
        agent_id=agent_id,
        instance_id=await fleet.instance(agent_id, who),
        placeholder_id=replica["instance_id"] if replica and not replica["bound"] else None,
    )
    await fleet.world.stubs[server].fleet.ReportInstanceLaunched(request, metadata=fleet.metadata)


async def register_instance(
    fleet: Fleet, server: int, name: str, who: str, primary: bool | None
) -> None:
    """An instance is made known by hand."""
    request = fleet_pb2.RegisterInstanceRequest(
        agent_id=await fleet.agent(name),
        instance_id=fleet.real(who),
        mode="spot",
        is_primary=primary,
        **_place(fleet.real(who)),
    )
    await fleet.world.stubs[server].fleet.RegisterInstance(request, metadata=fleet.metadata)


async def bulk(fleet: Fleet, server: int, name: str, operation: str, who: str) -> None:
    """An administrator does something to many; one at a time here."""
    agent_id = await fleet.agent(name)
    instance_id = await fleet.instance(agent_id, who)
    if agent_id is None or instance_id is None:
        return
    request = fleet_pb2.BulkExecuteRequest(operation=operation, confirm=True)
    if operation == "terminate_instances":
        request.instance_ids.append(instance_id)
    else:
        request.agent_ids.append(agent_id)
    await fleet.world.stubs[server].fleet.BulkExecute(request, metadata=ADMIN)


async def create_replica(fleet: Fleet, server: int, name: str) -> None:
    """A user asks for a replica."""
    request = replica_pb2.CreateReplicaRequest(agent_id=await fleet.agent(name))
    await fleet.world.stubs[server].replicas.CreateReplica(request, metadata=fleet.metadata)


async def poll_replicas(fleet: Fleet, server: int, name: str) -> None:
    """The agent asks for its replicas."""
    request = replica_pb2.PollReplicasRequest(agent_id=await fleet.agent(name))
    await fleet.world.stubs[server].replicas.PollReplicas(request, metadata=fleet.metadata)


async def own_replica(fleet: Fleet, server: int, name: str, who: str) -> None:
    """The agent has launched a replica on its own."""
    agent_id = await fleet.agent(name)
    request = replica_pb2.RegisterReplicaInstanceRequest(
        agent_id=agent_id, instance_id=await fleet.instance(agent_id, who)
    )
    stub = fleet.world.stubs[server].replicas
    await stub.RegisterReplicaInstance(request, metadata=fleet.metadata)


async def bind(fleet: Fleet, server: int, name: str, number: int, who: str) -> None:
    """The agent says which instance a replica is."""
    agent_id = await fleet.agent(name)
    replica = await fleet.replica(agent_id, number)
    if replica is None:
        return
    request = replica_pb2.BindReplicaInstanceRequest(
        agent_id=agent_id,
        replica_id=replica["id"],
        instance_id=await fleet.instance(agent_id, who),
    )
    stub = fleet.world.stubs[server].replicas
    await stub.BindReplicaInstance(request, metadata=fleet.metadata)


async def tell_replica(fleet: Fleet, server: int, name: str, number: int, status: str) -> None:
    """The agent says how a replica fares."""
    agent_id = await fleet.agent(name)
    replica = await fleet.replica(agent_id, number)
    if replica is None:
        return
    if status == "terminated":
        fleet.gone.add(replica["instance_id"])
    request = replica_pb2.ReportReplicaStatusRequest(
        agent_id=agent_id, replica_id=replica["id"], status=status
    )
    stub = fleet.world.stubs[server].replicas
    await stub.ReportReplicaStatus(request, metadata=fleet.metadata)


async def sync(fleet: Fleet, server: int, name: str, number: int, percent: float) -> None:
    """The agent says how far a replica is."""
    agent_id = await fleet.agent(name)
    replica = await fleet.replica(agent_id, number)
    if replica is None:
        return
    request = replica_pb2.ReportReplicaSyncRequest(
        agent_id=agent_id, replica_id=replica["id"], state_transfer_progress=percent
    )
    await fleet.world.stubs[server].replicas.ReportReplicaSync(request, metadata=fleet.metadata)


async def promote(
    fleet: Fleet, server: int, name: str, number: int, demote: bool, auto_terminate: bool
) -> None:
    """A user promotes a replica."""
    agent_id = await fleet.agent(name)
    replica = await fleet.replica(agent_id, number)
    if replica is None:
        return
    request = replica_pb2.PromoteReplicaRequest(
        agent_id=agent_id,
        replica_id=replica["id"],
        demote_old_primary=demote,
        auto_terminate_old_primary=auto_terminate,
    )
    await fleet.world.stubs[server].replicas.PromoteReplica(request, metadata=fleet.metadata)


async def end_replica(fleet: Fleet, server: int, name: str, number: int) -> None:
    """A user ends a replica."""
    agent_id = await fleet.agent(name)
    replica = await fleet.replica(agent_id, number)
    if replica is None:
        return
    request = replica_pb2.DeleteReplicaRequest(agent_id=agent_id, replica_id=replica["id"])
    await fleet.world.stubs[server].replicas.DeleteReplica(request, metadata=fleet.metadata)


async def imminent(fleet: Fleet, server: int, name: str, who: Any) -> None:
    """A termination notice; a promotion that it tells of is never one to a placeholder."""
    agent_id = await fleet.agent(name)
    request = failover_pb2.HandleTerminationNoticeRequest(
        agent_id=agent_id, instance_id=await fleet.instance(agent_id, who) if who else None
    )
    stub = fleet.world.stubs[server].failovers
    said = await stub.HandleTerminationNotice(request, metadata=fleet.metadata)
    assert not said.success or said.new_instance_id in fleet.everyone


async def rebalance(fleet: Fleet, server: int, name: str, who: Any) -> None:
    """A rebalance recommendation."""
    agent_id = await fleet.agent(name)
    request = failover_pb2.HandleRebalanceRequest(
        agent_id=agent_id, instance_id=await fleet.instance(agent_id, who) if who else None
    )
    await fleet.world.stubs[server].failovers.HandleRebalance(request, metadata=fleet.metadata)


async def emergency(fleet: Fleet, server: int, name: str, who: Any, kind: str) -> None:
    """The agent asks for an emergency replica."""
    agent_id = await fleet.agent(name)
    request = failover_pb2.CreateEmergencyReplicaRequest(
        agent_id=agent_id,
        signal_type=kind,
        instance_id=await fleet.instance(agent_id, who) if who else None,
    )
    stub = fleet.world.stubs[server].failovers
    await stub.CreateEmergencyReplica(request, metadata=fleet.metadata)


async def job(fleet: Fleet, server: int, _name: str, which: str) -> None:
    """A background job runs."""
    await run_job(fleet.world.planes[server], which)


async def later(fleet: Fleet, _server: int, _name: str, seconds: int) -> None:
    """Time goes by: leases end, agents fall silent, notices and deletions grow old."""
    fleet.world.clock.advance(timedelta(seconds=seconds))


def _place(instance_id: str) -> dict[str, Any]:
    zone = ZONES[int(instance_id.split("-")[1]) % len(ZONES)]
    return {"instance_type": TYPE, "region": REGION, "az": zone}


def _end(instance_id: str) -> fleet_pb2.SwitchedInstance:
    place = _place(instance_id)
    return fleet_pb2.SwitchedInstance(
        instance_id=instance_id, mode="spot", pool_id=f"{TYPE}.{place['az']}", **place
    )


def _stamp(fleet: Fleet) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(fleet.world.clock.now())
    return stamp


def _of(do: Callable[..., Awaitable[Any]], *about: st.SearchStrategy[Any]) -> Any:
    names = st.sampled_from((AGENTS[0], AGENTS[0], AGENTS[0], AGENTS[1]))
    return st.builds(lambda name, *rest: Step(do, name, rest), names, *about)


_who = st.sampled_from((*PARTS, *INSTANCES))
_whoever = st.one_of(st.none(), _who)
_id = st.sampled_from(INSTANCES)
_number = st.integers(0, 2)
_bool = st.booleans()
_settings = st.sampled_from(
    (
        {"auto_terminate_enabled": False},
        {"auto_terminate_enabled": True},
        {"terminate_wait_seconds": 0},
        {"enabled": False},
        {"enabled": True},
        {"manual_replica_enabled": True},
        {"manual_replica_enabled": False, "auto_switch_enabled": True},
    )
)

REGISTERING = st.one_of(
    _of(register, _who, st.sampled_from(("spot", "ondemand"))),
    _of(register_replica, _id, _number),
    _of(register_instance, _id, st.sampled_from((None, True, False))),
)
SPEAKING = st.one_of(
    _of(beat, _whoever, st.sampled_from(("online", "switching", "terminated"))),
    _of(leave, _whoever),
    _of(ended_itself, _whoever),
)
ORDERING = st.one_of(
    _of(configure, _settings),
    _of(issue, st.sampled_from(("request-1", "request-2"))),
    _of(cancel, _number),
    _of(force, _who, st.sampled_from(("ondemand", *POOLS)), st.sampled_from((None, True, False))),
)
SWITCHING = st.one_of(
    _of(lease, _whoever, st.sampled_from(("loop", "action"))),
    _of(complete, _number, _bool, st.one_of(st.none(), _id)),
    _of(
        report_switch,
        _whoever,
        _who,
        st.one_of(st.none(), _number),
        st.sampled_from(("done", "done", "ended", "failed")),
    ),
)
ENDING = st.one_of(
    _of(doomed),
    _of(ended, _who, _bool),
    _of(bulk, st.sampled_from(("terminate_instances", "disable_agents", "delete_agents")), _who),
    _of(delete),
    _of(uninstall),
)
STANDING_BY = st.one_of(
    _of(create_replica),
    _of(poll_replicas),
    _of(own_replica, _who),
    _of(launched, _who, st.one_of(st.none(), _number)),
    _of(bind, _number, _id),
    _of(tell_replica, _number, st.sampled_from(("syncing", "ready", "failed", "terminated"))),
    _of(sync, _number, st.sampled_from((0.0, 50.0, 100.0))),
    _of(promote, _number, _bool, _bool),
    _of(end_replica, _number),
)
NOTICED = st.one_of(
    _of(imminent, _whoever),
    _of(rebalance, _whoever),
    _of(emergency, _whoever, st.sampled_from(("rebalance-recommendation", "termination-notice"))),
)
WAITING = st.one_of(
    _of(job, st.sampled_from(JOBS)),
    _of(later, st.sampled_from((5, 70, 200, 400, 1000))),
)
MESSAGES = st.one_of(REGISTERING, SPEAKING, ORDERING, SWITCHING, ENDING, STANDING_BY, NOTICED)
