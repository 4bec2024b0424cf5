"""Spend budgets."""

from __future__ import annotations

from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import Json, Limit, Tenant, Yes, confirm, group, plane_of

app = group("Spend budgets: limits of what is used, what is told of them, and hard stops.")

Budget = Annotated[str, typer.Argument(metavar="BUDGET", help="UUID.")]
Thresholds = Annotated[
    list[int] | None, typer.Option("--at", metavar="PERCENT", help="Share to tell of; repeat it.")
]

_COLUMNS = "id name api_key_id period state spent_usd limit_usd spent_pct hard_stop period_end"


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Tenant,
    key: Annotated[str | None, typer.Option(help="UUID: budgets of this key only.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List a tenant's budgets and how they stand, newest first."""
    answer = plane_of(context).call(
        "BudgetService.ListBudgets", tenant_id=tenant, api_key_id=key, limit=limit
    )
    show.many(answer, _COLUMNS, json=json)


@app.command()
def create(
    context: typer.Context,
    tenant: Tenant,
    name: str,
    limit_usd: Annotated[float, typer.Argument(metavar="USD")],
    period: Annotated[str | None, typer.Option(help="day, week, month or total.")] = None,
    key: Annotated[str | None, typer.Option(help="UUID of the one key to cover.")] = None,
    at: Thresholds = None,
    hard_stop: Annotated[bool, typer.Option(help="Refuse the covered keys at the limit.")] = False,
    json: Json = False,
) -> None:
    """Create a budget; what was used in the running period counts."""
    answer = plane_of(context).call(
        "BudgetService.CreateBudget",
        tenant_id=tenant,
        name=name,
        limit_usd=limit_usd,
        period=period,
        api_key_id=key,
        alert_thresholds_pct=at or None,
        hard_stop=hard_stop,
    )
    show.one(answer, json=json)


@app.command("show")
def show_(context: typer.Context, tenant: Tenant, budget: Budget, json: Json = False) -> None:
    """Show a budget and how it stands."""
    answer = plane_of(context).call("BudgetService.GetBudget", tenant_id=tenant, id=budget)
    show.one(answer, json=json)


@app.command()
def update(
    context: typer.Context,
    tenant: Tenant,
    budget: Budget,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    limit_usd: Annotated[float | None, typer.Option("--limit-usd", help="New limit.")] = None,
    at: Thresholds = None,
    hard_stop: Annotated[bool | None, typer.Option(help="Refuse at the limit.")] = None,
    json: Json = False,
) -> None:
    """Change a budget; a stop that the change lifts ends at once."""
    answer = plane_of(context).call(
        "BudgetService.UpdateBudget",
        tenant_id=tenant,
        id=budget,
        name=name,
        limit_usd=limit_usd,
        alert_thresholds_pct=at or None,
        hard_stop=hard_stop,
    )
    show.one(answer, json=json)


@app.command()
def delete(
    context: typer.Context, tenant: Tenant, budget: Budget, yes: Yes = False, json: Json = False
) -> None:
    """Delete a budget; its stop ends at once."""
    confirm(f"delete budget {budget}?", yes=yes)
    answer = plane_of(context).call("BudgetService.DeleteBudget", tenant_id=tenant, id=budget)
    show.one(answer, json=json)
