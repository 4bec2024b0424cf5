"""What tenants used: asked, proved, mended, and what could not be stored."""

from __future__ import annotations

from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import Json, Limit, Tenant, Yes, confirm, group, plane_of

app = group("What tenants used, whether the sums are right, and what could not be stored.")
letters = group("Usage records that could not be stored.")
app.add_typer(letters, name="dead-letters")

Start = Annotated[
    str | None, typer.Option(metavar="TIME", help="RFC 3339; default 30 days before the end.")
]
End = Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339, exclusive; default now.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="UUIDs of dead letters.")]

_NAMES = {"model": "model_name", "api_key": "api_key_name", "region": "region_code"}
_SUMS = "total_requests success_rate_pct total_tokens p50_latency_ms p95_latency_ms total_cost_usd"
_LETTERS = "id record.request_id code field description sender_kind sender_id received_at"


@app.command("show")
def show_(
    context: typer.Context,
    tenant: Tenant,
    by: Annotated[str, typer.Option(help="model, api_key, region, hour or day.")] = "model",
    start: Start = None,
    end: End = None,
    exact: Annotated[bool, typer.Option(help="From raw records, at most 31 days.")] = False,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Show a tenant's usage in groups, most tokens or oldest first."""
    answer = plane_of(context).call(
        "UsageService.GetTenantUsageDetailed",
        id=tenant,
        group_by=by,
        start_date=start,
        end_date=end,
        exact=exact,
        limit=limit,
    )
    show.many(answer, f"{_NAMES.get(by, 'period')} {_SUMS}", json=json)


@app.command()
def verify(
    context: typer.Context, tenant: Tenant, start: Start = None, end: End = None, json: Json = False
) -> None:
    """Prove that a tenant's sums equal its raw records; exits with 1 when they do not."""
    answer = plane_of(context).call(
        "UsageService.VerifyRollups", tenant_id=tenant, start_date=start, end_date=end
    )
    wrong = answer.wrong_hours + answer.wrong_days + answer.wrong_minutes
    if json:
        show.one(answer, json=True)
    elif wrong:
        show.one(answer, json=False)
        typer.echo("the sums are wrong; `spotplane admin usage rebuild` mends them", err=True)
    else:
        typer.echo(f"{answer.days} days: every sum equals its raw records")
    if wrong:
        raise typer.Exit(1)


@app.command()
def rebuild(
    context: typer.Context, tenant: Tenant, start: Start = None, end: End = None, json: Json = False
) -> None:
    """Mend a tenant's sums of a window by its raw records; those that are right are left alone."""
    answer = plane_of(context).call(
        "UsageService.RefreshRollups", tenant_id=tenant, start_date=start, end_date=end
    )
    show.one(answer, json=json)


@letters.command("list")
def list_(
    context: typer.Context,
    tenant: Tenant,
    code: Annotated[str | None, typer.Option(help="Only refused so, e.g. UNKNOWN_MODEL.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List a tenant's dead letters, newest first."""
    answer = plane_of(context).call(
        "UsageService.ListUsageDeadLetters", tenant_id=tenant, code=code, limit=limit
    )
    show.many(answer, _LETTERS, json=json)


@letters.command()
def retry(context: typer.Context, tenant: Tenant, ids: Ids = None, json: Json = False) -> None:
    """Store dead letters after all: those named, or the oldest thousand."""
    answer = plane_of(context).call(
        "UsageService.RetryUsageDeadLetters", tenant_id=tenant, ids=ids or []
    )
    show.one(answer, json=json)


@letters.command()
def discard(
    context: typer.Context,
    tenant: Tenant,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="UUIDs of dead letters.")],
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Forget dead letters for good."""
    confirm(f"forget {len(ids)} dead letters of {tenant}?", yes=yes)
    answer = plane_of(context).call(
        "UsageService.DiscardUsageDeadLetters", tenant_id=tenant, ids=ids
    )
    show.one(answer, json=json)
