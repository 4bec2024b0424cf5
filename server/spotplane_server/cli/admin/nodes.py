"""Nodes: machines that serve models."""

from __future__ import annotations

from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import Json, Limit, Yes, confirm, group, plane_of

app = group("Nodes: machines that serve models.")

Name = Annotated[str, typer.Argument(metavar="NODE", help="Its cluster name.")]

_COLUMNS = (
    "cluster_name kind status provider region instance_type model health_score last_heartbeat_at"
)


@app.command("list")
def list_(
    context: typer.Context,
    status: Annotated[str | None, typer.Option(help="States, by comma.")] = None,
    provider: Annotated[str | None, typer.Option(help="aws, azure, gcp, oci or on-prem.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List nodes that serve or drain, or those in other states, newest first."""
    answer = plane_of(context).call(
        "NodeService.ListNodes", status=status, provider=provider, limit=limit
    )
    show.many(answer, _COLUMNS, json=json)


@app.command()
def get(context: typer.Context, node: Name, json: Json = False) -> None:
    """Show a node."""
    show.one(plane_of(context).call("NodeService.GetNode", cluster_name=node), json=json)


@app.command()
def launch(
    context: typer.Context,
    provider: Annotated[str, typer.Argument(help="aws, azure, gcp or oci.")],
    region: Annotated[str, typer.Argument(help="Its code.")],
    model: Annotated[str, typer.Argument(help="Name or UUID.")],
    instance_type: Annotated[str | None, typer.Option("--type", help="Default by GPU.")] = None,
    gpu: Annotated[str | None, typer.Option(help="E.g. A10G.")] = None,
    spot: Annotated[bool, typer.Option(help="Take spot capacity.")] = False,
    tenant: Annotated[str | None, typer.Option(help="UUID of its tenant.")] = None,
    json: Json = False,
) -> None:
    """Order a node; a provisioner launches it."""
    answer = plane_of(context).call(
        "NodeService.LaunchNode",
        provider=provider,
        region=region,
        model=model,
        instance_type=instance_type,
        gpu=gpu,
        use_spot=spot,
        tenant_id=tenant,
    )
    show.one(answer, json=json)


@app.command()
def terminate(context: typer.Context, node: Name, yes: Yes = False, json: Json = False) -> None:
    """End a node, and its machine if the plane launched it."""
    confirm(f"end {node}?", yes=yes)
    show.one(plane_of(context).call("NodeService.TerminateNode", cluster_name=node), json=json)


@app.command()
def logs(
    context: typer.Context,
    node: Name,
    tail: Annotated[int | None, typer.Option(help="Most lines, the newest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come.")] = False,
    json: Json = False,
) -> None:
    """Show a node's log."""
    plane = plane_of(context)
    node_id = plane.call("NodeService.GetNode", cluster_name=node).id
    if not follow:
        answer = plane.call("NodeService.ListNodeLogs", id=node_id, tail=tail)
        show.many(answer, "timestamp level phase progress message", json=json, field="logs")
        return
    for part in plane.stream("NodeService.StreamNodeLogs", id=node_id, tail=tail):
        for line in part.data.decode().splitlines():
            if line.startswith("data: "):
                _print(line.removeprefix("data: "), json=json)


def _print(text: str, *, json: bool) -> None:
    from json import loads

    entry = loads(text)
    if json:
        typer.echo(text)
    elif "message" in entry:
        at, level = entry.get("timestamp", ""), entry.get("level", "error")
        typer.echo(f"{at} {level} {entry['message']}")
