"""Agents, their configuration, and their commands."""

from __future__ import annotations

import json as json_
from typing import Annotated, Any

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import Agent, Json, Limit, Yes, confirm, group, plane_of
from spotplane_server.cli.failures import MISUSED, fail

app = group("Agents.")
commands = group("Commands to agents, and what became of them.")

Command = Annotated[str, typer.Argument(metavar="COMMAND", help="UUID.")]

_COLUMNS = (
    "logical_agent_id status connected instance_id pool_id mode config.config_version "
    "last_heartbeat_at id"
)


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="UUID; default every tenant.")] = None,
    status: Annotated[str | None, typer.Option(help="online, offline, …")] = None,
    search: Annotated[str | None, typer.Option(help="Part of the logical id or host.")] = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """List agents, the ones heard of last first."""
    answer = plane_of(context).call(
        "AgentService.ListAgents", tenant_id=tenant, status=status, search=search, limit=limit
    )
    show.many(answer, _COLUMNS, json=json)


@app.command("show")
def show_(context: typer.Context, agent: Agent, json: Json = False) -> None:
    """Show an agent."""
    plane = plane_of(context)
    answer = plane.call("AgentService.GetAgent", agent_id=plane.agent_id(agent))
    show.one(answer, json=json)


@app.command()
def config(
    context: typer.Context,
    agent: Agent,
    enabled: Annotated[bool | None, typer.Option(help="Carry out commands.")] = None,
    auto_switch: Annotated[bool | None, typer.Option(help="May be moved.")] = None,
    auto_terminate: Annotated[bool | None, typer.Option(help="End old instances.")] = None,
    manual_replica: Annotated[bool | None, typer.Option(help="Keep one replica standing.")] = None,
    terminate_wait: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="How long an old instance stays.")
    ] = None,
    min_savings: Annotated[float | None, typer.Option(metavar="PERCENT")] = None,
    json: Json = False,
) -> None:
    """Show an agent's configuration, or change what is named."""
    changes = {
        "enabled": enabled,
        "auto_switch_enabled": auto_switch,
        "auto_terminate_enabled": auto_terminate,
        "manual_replica_enabled": manual_replica,
        "terminate_wait_seconds": terminate_wait,
        "min_savings_percent": min_savings,
    }
    plane = plane_of(context)
    agent_id = plane.agent_id(agent)
    if all(value is None for value in changes.values()):
        answer = plane.call("AgentService.GetAgent", agent_id=agent_id).config
    else:
        answer = plane.call("AgentService.UpdateAgentConfig", agent_id=agent_id, **changes)
    show.one(answer, json=json)


@app.command()
def enable(context: typer.Context, agent: Agent, json: Json = False) -> None:
    """Let an agent carry out commands and be decided upon."""
    _set_enabled(context, agent, enabled=True, json=json)


@app.command()
def disable(context: typer.Context, agent: Agent, json: Json = False) -> None:
    """Hold an agent's commands back; emergencies are still carried out."""
    _set_enabled(context, agent, enabled=False, json=json)


def _set_enabled(context: typer.Context, agent: str, *, enabled: bool, json: bool) -> None:
    plane = plane_of(context)
    agent_id = plane.agent_id(agent)
    answer = plane.call("AgentService.SetAgentEnabled", agent_id=agent_id, enabled=enabled)
    show.one(answer, json=json)


@app.command()
def delete(context: typer.Context, agent: Agent, yes: Yes = False, json: Json = False) -> None:
    """Delete an agent; its streams end."""
    confirm(f"delete agent {agent}?", yes=yes)
    plane = plane_of(context)
    answer = plane.call("AgentService.DeleteAgent", agent_id=plane.agent_id(agent))
    show.one(answer, json=json)


@commands.command()
def issue(
    context: typer.Context,
    agent: Agent,
    name: Annotated[str, typer.Argument(help="Handler of the agent's.")],
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter; repeat it.")
    ] = None,
    priority: Annotated[int | None, typer.Option(min=1, max=100)] = None,
    expires_in: Annotated[int | None, typer.Option(metavar="SECONDS")] = None,
    request_id: Annotated[str | None, typer.Option(help="Makes repeating safe.")] = None,
    json: Json = False,
) -> None:
    """Order an agent to do something."""
    plane = plane_of(context)
    answer = plane.call(
        "AgentService.IssueCommand",
        agent_id=plane.agent_id(agent),
        name=name,
        parameters=_parameters(param or []),
        priority=priority,
        expires_in_seconds=expires_in,
        request_id=request_id,
    )
    show.one(answer, json=json)


@commands.command("list")
def list_commands(
    context: typer.Context,
    agent: Agent,
    status: Annotated[str | None, typer.Option(help="pending, completed, …")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List an agent's commands, newest first."""
    plane = plane_of(context)
    answer = plane.call(
        "AgentService.ListCommands",
        agent_id=plane.agent_id(agent),
        status=status,
        limit=limit,
    )
    show.many(answer, "id type name status trigger created_by created_at done_at", json=json)


@commands.command("show")
def show_command(
    context: typer.Context, agent: Agent, command: Command, json: Json = False
) -> None:
    """Tell a command's whole story."""
    plane = plane_of(context)
    answer = plane.call(
        "AgentService.GetCommand", agent_id=plane.agent_id(agent), command_id=command
    )
    if json:
        show.one(answer, json=True)
        return
    typer.echo(f"{answer.name} on {answer.instance_id}: {answer.status} {answer.message}".rstrip())
    if answer.HasField("result"):
        typer.echo(f"result {show.cell(answer.result)}")
    story(answer.history)


@commands.command()
def cancel(
    context: typer.Context,
    agent: Agent,
    command: Command,
    reason: Annotated[str | None, typer.Option(help="Kept with the command.")] = None,
    json: Json = False,
) -> None:
    """Cancel a command that its agent has not begun."""
    plane = plane_of(context)
    answer = plane.call(
        "AgentService.CancelCommand",
        agent_id=plane.agent_id(agent),
        command_id=command,
        reason=reason,
    )
    show.one(answer, json=json)


def story(steps: Any) -> None:
    """Print steps with their times, and the milliseconds since the first."""
    first = steps[0].occurred_at.ToNanoseconds() if steps else 0
    rows = (
        (
            show.cell(step.occurred_at),
            f"{(step.occurred_at.ToNanoseconds() - first) / 1e6:+.1f} ms",
            step.kind,
            step.detail,
        )
        for step in steps
    )
    show.table(("when", "since", "what", "detail"), rows)


def _parameters(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` as a parameter; a value that is JSON is taken as such."""
    parameters: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not (name and sign):
            fail(f"--param {text!r} is not NAME=VALUE", status=MISUSED)
        try:
            parameters[name] = json_.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters
