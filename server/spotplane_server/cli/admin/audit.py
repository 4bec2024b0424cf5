"""The audit trail."""

from __future__ import annotations

from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import Json, Limit, group, plane_of

app = group("Who changed what, when, and from where.")

_COLUMNS = "occurred_at actor_name action resource_type resource_id tenant_id result ip id"


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="UUID.")] = None,
    actor: Annotated[str | None, typer.Option(help="Name or id of a credential.")] = None,
    action: Annotated[str | None, typer.Option(help="E.g. tenant.suspend.")] = None,
    resource: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Kind of thing, e.g. tenant.")
    ] = None,
    resource_id: Annotated[str | None, typer.Option("--id", help="Which one.")] = None,
    correlation: Annotated[str | None, typer.Option(help="Id of a call.")] = None,
    since: Annotated[
        str | None, typer.Option(help="RFC 3339; default 30 days before the end.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="RFC 3339; default now.")] = None,
    limit: Limit = None,
    offset: Annotated[int | None, typer.Option(help="Rows to skip.")] = None,
    json: Json = False,
) -> None:
    """List what was changed or refused, newest first."""
    answer = plane_of(context).call(
        "AuditService.ListAuditEvents",
        tenant_id=tenant,
        actor=actor,
        action=action,
        resource_type=resource,
        resource_id=resource_id,
        correlation_id=correlation,
        start_date=since,
        end_date=until,
        limit=limit,
        offset=offset,
    )
    show.many(answer, _COLUMNS, json=json)


@app.command("show")
def show_(
    context: typer.Context,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="UUID.")],
    json: Json = False,
) -> None:
    """Show one event with the fields before and after."""
    show.one(plane_of(context).call("AuditService.GetAuditEvent", id=event), json=json)
