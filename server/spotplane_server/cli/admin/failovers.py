"""Replicas, failovers and notices, and watching what happens."""

from __future__ import annotations

from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.agents import story
from spotplane_server.cli.admin.options import Agent, Json, Limit, Yes, confirm, group, plane_of

replicas = group("Replicas: instances that stand by.")
failovers = group("Failovers: what notices and losses led to.")

Replica = Annotated[str, typer.Argument(metavar="REPLICA", help="UUID.")]


@replicas.command("list")
def list_replicas(
    context: typer.Context,
    agent: Agent,
    every: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List an agent's replicas, newest first."""
    plane = plane_of(context)
    answer = plane.call(
        "ReplicaService.ListReplicas",
        agent_id=plane.agent_id(agent),
        include_terminated=every or None,
        limit=limit,
    )
    show.many(answer, "id status type instance_id pool_id created_by created_at", json=json)


@replicas.command("create")
def create_replica(
    context: typer.Context,
    agent: Agent,
    pool: Annotated[str | None, typer.Option(help="Default the cheapest other one.")] = None,
    json: Json = False,
) -> None:
    """Order a replica."""
    plane = plane_of(context)
    answer = plane.call(
        "ReplicaService.CreateReplica", agent_id=plane.agent_id(agent), pool_id=pool
    )
    show.one(answer, json=json)


@replicas.command("promote")
def promote_replica(
    context: typer.Context, agent: Agent, replica: Replica, json: Json = False
) -> None:
    """Let a replica take over."""
    plane = plane_of(context)
    answer = plane.call(
        "ReplicaService.PromoteReplica", agent_id=plane.agent_id(agent), replica_id=replica
    )
    show.one(answer, json=json)


@replicas.command("delete")
def delete_replica(
    context: typer.Context, agent: Agent, replica: Replica, yes: Yes = False, json: Json = False
) -> None:
    """End a replica."""
    confirm(f"end replica {replica}?", yes=yes)
    plane = plane_of(context)
    answer = plane.call(
        "ReplicaService.DeleteReplica", agent_id=plane.agent_id(agent), replica_id=replica
    )
    show.one(answer, json=json)


@failovers.command("list")
def list_failovers(
    context: typer.Context, agent: Agent, limit: Limit = None, json: Json = False
) -> None:
    """List an agent's failovers, newest first."""
    plane = plane_of(context)
    answer = plane.call(
        "FailoverService.ListFailovers", agent_id=plane.agent_id(agent), limit=limit
    )
    columns = "id kind status action instance_id new_instance_id response_ms detected_at"
    show.many(answer, columns, json=json)


@failovers.command("show")
def show_failover(
    context: typer.Context,
    agent: Agent,
    failover: Annotated[str, typer.Argument(metavar="FAILOVER", help="UUID.")],
    json: Json = False,
) -> None:
    """Tell a failover's whole story."""
    plane = plane_of(context)
    answer = plane.call(
        "FailoverService.GetFailover", agent_id=plane.agent_id(agent), failover_id=failover
    )
    if json:
        show.one(answer, json=True)
        return
    typer.echo(f"{answer.kind} of {answer.instance_id}: {answer.status}, {answer.action}")
    if answer.HasField("response_ms"):
        typer.echo(f"promoted {answer.new_instance_id} in {answer.response_ms:.1f} ms")
    story(answer.steps)


def notice(
    context: typer.Context,
    agent: Agent,
    kind: Annotated[str, typer.Option(help="termination or rebalance.")] = "termination",
    instance: Annotated[str | None, typer.Option(help="Default the serving one.")] = None,
    deadline: Annotated[str | None, typer.Option(help="RFC 3339; default in 2 minutes.")] = None,
    json: Json = False,
) -> None:
    """Report that the cloud takes an instance back, as its agent would."""
    plane = plane_of(context)
    answer = plane.call(
        "FailoverService.ReportNotice",
        agent_id=plane.agent_id(agent),
        kind=kind,
        instance_id=instance,
        deadline=deadline,
    )
    show.one(answer, json=json)


def events(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones.")] = False,
    kinds: Annotated[
        list[str] | None, typer.Option("--type", help="Like failover.*; repeat it.")
    ] = None,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Begin behind it.")] = None,
    tenant: Annotated[str | None, typer.Option(help="UUID; default every tenant.")] = None,
    json: Json = False,
) -> None:
    """Print what happened; with --follow, what happens from now on."""
    stream = plane_of(context).stream(
        "EventService.WatchEvents",
        # Without --follow there is no last event to wait for, only silence.
        timeout=None if follow else 2.0,
        types=kinds or [],
        after_cursor=after if follow else after or "0-0",
        tenant_id=tenant,
    )
    try:
        for event in stream:
            if json:
                typer.echo(show.as_json(event).replace("\n", ""))
            else:
                when = show.cell(event.timestamp)
                typer.echo(f"{when}  {event.event_type:<22} {show.cell(event.data)}")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
