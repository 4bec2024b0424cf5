"""API keys of tenants."""

from __future__ import annotations

from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import (
    Json,
    Key,
    Limit,
    Tenant,
    Yes,
    confirm,
    group,
    plane_of,
)

app = group("API keys of tenants.")

Reason = Annotated[str | None, typer.Option(help="Kept in the audit trail.")]

_COLUMNS = "id name key_prefix role status rate_limit_rpm last_used_at expires_at"


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Tenant,
    status: Annotated[str | None, typer.Option(help="active, suspended or revoked.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List a tenant's keys, newest first."""
    answer = plane_of(context).call(
        "ApiKeyService.ListApiKeys", tenant_id=tenant, status=status, limit=limit
    )
    show.many(answer, _COLUMNS, json=json)


@app.command()
def create(
    context: typer.Context,
    tenant: Tenant,
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    role: Annotated[str | None, typer.Option(help="read_only, developer, admin or agent.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at a time.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="RFC 3339.")] = None,
    json: Json = False,
) -> None:
    """Create a key; the secret is shown now and never again."""
    answer = plane_of(context).call(
        "ApiKeyService.CreateApiKey",
        tenant_id=tenant,
        name=name,
        role=role,
        rate_limit_rpm=rpm,
        concurrency_limit=concurrency,
        expires_at=expires_at,
    )
    show.one(answer, json=json)


@app.command()
def rotate(
    context: typer.Context,
    key: Key,
    grace: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="How long the old one still opens.")
    ] = None,
    json: Json = False,
) -> None:
    """Replace a key; the new secret is shown now and never again."""
    answer = plane_of(context).call(
        "ApiKeyService.RotateApiKey", key_id=key, grace_period_seconds=grace
    )
    show.one(answer, json=json)


@app.command()
def suspend(context: typer.Context, key: Key, reason: Reason = None, json: Json = False) -> None:
    """Suspend one key."""
    answer = plane_of(context).call("ApiKeyService.SuspendApiKey", key_id=key, reason=reason)
    show.one(answer, json=json)


@app.command()
def activate(context: typer.Context, key: Key, reason: Reason = None, json: Json = False) -> None:
    """Activate one key."""
    answer = plane_of(context).call("ApiKeyService.ActivateApiKey", key_id=key, reason=reason)
    show.one(answer, json=json)


@app.command()
def revoke(context: typer.Context, key: Key, yes: Yes = False, json: Json = False) -> None:
    """Revoke a key for good."""
    confirm(f"revoke key {key}?", yes=yes)
    show.one(plane_of(context).call("ApiKeyService.RevokeApiKey", key_id=key), json=json)
