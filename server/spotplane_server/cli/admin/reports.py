"""What the fleet has saved and what it went through, and the tenants as clients of the field."""

from __future__ import annotations

from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import (
    Agent,
    Json,
    Limit,
    Tenant,
    Yes,
    confirm,
    group,
    plane_of,
)

savings = group("What a tenant has saved, and what its switches have cost in time.")
emergencies = group("Rebalance recommendations and termination notices.")
clients = group("Tenants as the routes of the field know them: one token each.")

Days = Annotated[int | None, typer.Option(help="How far back.")]

_EVENTS = (
    "id signal_type status response_action agent_id instance_id new_instance_id "
    "response_time_ms detected_at"
)
_CLIENTS = (
    "id name status agents_online agents_total active_instances total_savings_nanousd last_sync_at"
)


@savings.command("show")
def show_savings(
    context: typer.Context,
    tenant: Tenant,
    period: Annotated[
        str | None, typer.Option("--range", help="monthly, weekly, daily or yearly.")
    ] = None,
    json: Json = False,
) -> None:
    """Show savings by period, oldest first."""
    answer = plane_of(context).call("SavingsService.GetSavings", tenant_id=tenant, range=period)
    show.many(answer, "name on_demand_nanousd actual_nanousd savings_nanousd", json=json)


@savings.command()
def downtime(context: typer.Context, tenant: Tenant, days: Days = None, json: Json = False) -> None:
    """Show how long switches have kept anybody waiting."""
    answer = plane_of(context).call("SavingsService.GetDowntime", tenant_id=tenant, days=days)
    show.one(answer, json=json)


@emergencies.command("list")
def list_emergencies(context: typer.Context, days: Days = None, json: Json = False) -> None:
    """List every tenant's signals, newest first, and what was done."""
    answer = plane_of(context).call("FailoverService.ListEmergencyEvents", days=days)
    show.many(answer, _EVENTS, json=json, field="events")


@emergencies.command("show")
def show_emergency(context: typer.Context, agent: Agent, json: Json = False) -> None:
    """Show whether an agent is in an emergency, and how it stands."""
    plane = plane_of(context)
    answer = plane.call("FailoverService.GetEmergencyStatus", agent_id=plane.agent_id(agent))
    show.one(answer, json=json)


@clients.command("list")
def list_clients(context: typer.Context, limit: Limit = None, json: Json = False) -> None:
    """List clients with their agents and savings."""
    answer = plane_of(context).call("InsightService.ListTenantSummaries", limit=limit)
    show.many(answer, _CLIENTS, json=json)


@clients.command()
def create(
    context: typer.Context,
    name: str,
    email: Annotated[str | None, typer.Option(help="Default a made up one.")] = None,
    json: Json = False,
) -> None:
    """Create a client; its token is shown once."""
    answer = plane_of(context).call("TenantService.CreateClient", name=name, email=email)
    show.one(answer, json=json)


@clients.command()
def rotate(
    context: typer.Context,
    tenant: Tenant,
    grace: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="How long the old token works on.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Give a client a new token, which is shown once."""
    confirm(f"replace the token of {tenant}?", yes=yes)
    answer = plane_of(context).call(
        "TenantService.RotateClientToken", tenant_id=tenant, grace_seconds=grace
    )
    show.one(answer, json=json)


@clients.command()
def reveal(context: typer.Context, tenant: Tenant, json: Json = False) -> None:
    """Show a client's token again, where the plane keeps copies; the audit trail tells."""
    answer = plane_of(context).call("TenantService.RevealClientToken", tenant_id=tenant)
    show.one(answer, json=json)
