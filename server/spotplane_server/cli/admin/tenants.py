"""Tenants."""

from __future__ import annotations

from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import Json, Limit, Tenant, Yes, confirm, group, plane_of

app = group("Tenants.")

_COLUMNS = "id name email status tier api_keys_count created_at"


@app.command("list")
def list_(
    context: typer.Context,
    status: Annotated[str | None, typer.Option(help="active, suspended or deleted.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of the name or address.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List tenants, newest first."""
    answer = plane_of(context).call(
        "TenantService.ListTenants", status=status, search=search, limit=limit
    )
    show.many(answer, _COLUMNS, json=json)


@app.command()
def create(
    context: typer.Context,
    name: str,
    email: str,
    tier: Annotated[str | None, typer.Option(help="serverless, reserved or enterprise.")] = None,
    json: Json = False,
) -> None:
    """Create a tenant."""
    answer = plane_of(context).call("TenantService.CreateTenant", name=name, email=email, tier=tier)
    show.one(answer, json=json)


@app.command("show")
def show_(context: typer.Context, tenant: Tenant, json: Json = False) -> None:
    """Show a tenant."""
    show.one(plane_of(context).call("TenantService.GetTenant", id=tenant), json=json)


@app.command()
def suspend(
    context: typer.Context,
    tenant: Tenant,
    reason: Annotated[str | None, typer.Option(help="Kept with the tenant.")] = None,
    notes: Annotated[str | None, typer.Option(help="Kept with the tenant.")] = None,
    json: Json = False,
) -> None:
    """Suspend a tenant and all its keys, at once and everywhere."""
    answer = plane_of(context).call(
        "TenantService.SuspendTenant", id=tenant, reason=reason, notes=notes
    )
    show.one(answer if json else answer.tenant, json=json)


@app.command()
def activate(
    context: typer.Context,
    tenant: Tenant,
    notes: Annotated[str | None, typer.Option(help="Kept in the audit trail.")] = None,
    json: Json = False,
) -> None:
    """Activate a tenant and the keys that its suspension suspended."""
    answer = plane_of(context).call("TenantService.ActivateTenant", id=tenant, notes=notes)
    show.one(answer if json else answer.tenant, json=json)


@app.command()
def delete(context: typer.Context, tenant: Tenant, yes: Yes = False, json: Json = False) -> None:
    """Delete a tenant; its keys die at once."""
    confirm(f"delete tenant {tenant}?", yes=yes)
    show.one(plane_of(context).call("TenantService.DeleteTenant", id=tenant), json=json)
