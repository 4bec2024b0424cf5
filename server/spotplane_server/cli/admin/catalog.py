"""Regions, instance types, and importing a whole catalogue."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import Json, Limit, Yes, confirm, group, plane_of
from spotplane_server.cli.admin.tokens import database_of
from spotplane_server.cli.failures import MISUSED, fail

if TYPE_CHECKING:
    from spotplane_server.catalog.seed import Report

regions = group("Regions.")
types = group("Instance types.")
catalog = group("The whole catalogue.")

Region = Annotated[str, typer.Argument(metavar="REGION", help="UUID.")]
Type = Annotated[int, typer.Argument(metavar="TYPE", help="Id of the instance type.")]
Provider = Annotated[str | None, typer.Option(help="aws, gcp, azure or oci.")]


@regions.command("list")
def list_regions(
    context: typer.Context,
    provider: Provider = None,
    status: Annotated[str | None, typer.Option(help="active or offline.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List regions by provider and name."""
    answer = plane_of(context).call(
        "RegionService.ListRegions", provider=provider, status=status, limit=limit
    )
    show.many(answer, "id code name provider status pricing_multiplier max_nodes", json=json)


@regions.command("create")
def create_region(
    context: typer.Context,
    code: str,
    name: str,
    provider: str,
    multiplier: Annotated[float | None, typer.Option(help="Of prices; default 1.")] = None,
    max_nodes: Annotated[int | None, typer.Option(help="Most nodes there.")] = None,
    json: Json = False,
) -> None:
    """Create a region."""
    answer = plane_of(context).call(
        "RegionService.CreateRegion",
        code=code,
        name=name,
        provider=provider,
        pricing_multiplier=multiplier,
        max_nodes=max_nodes,
    )
    show.one(answer, json=json)


@regions.command("show")
def show_region(context: typer.Context, region: Region, json: Json = False) -> None:
    """Show a region."""
    show.one(plane_of(context).call("RegionService.GetRegion", id=region), json=json)


@regions.command("delete")
def delete_region(
    context: typer.Context, region: Region, yes: Yes = False, json: Json = False
) -> None:
    """Delete a region that no live node is in."""
    confirm(f"delete region {region}?", yes=yes)
    show.one(plane_of(context).call("RegionService.DeleteRegion", id=region), json=json)


@types.command("list")
def list_types(
    context: typer.Context,
    provider: Provider = None,
    region: Annotated[str | None, typer.Option(help="Code of a region.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List instance types."""
    answer = plane_of(context).call(
        "InstanceTypeService.ListInstanceTypes", provider=provider, region=region, limit=limit
    )
    columns = "id provider instance_type gpu_model gpu_count price_per_hour spot_price_per_hour"
    show.many(answer, f"{columns} available", json=json)


@types.command("show")
def show_type(context: typer.Context, type_id: Type, json: Json = False) -> None:
    """Show an instance type."""
    answer = plane_of(context).call("InstanceTypeService.GetInstanceType", id=str(type_id))
    show.one(answer, json=json)


@types.command("pricing")
def pricing(context: typer.Context, type_id: Type, json: Json = False) -> None:
    """Show what an instance type costs in each region."""
    answer = plane_of(context).call("InstanceTypeService.GetInstanceTypePricing", id=str(type_id))
    if json:
        typer.echo(show.as_json(answer))
        return
    columns = ("region_code", "on_demand_price", "spot_price", "stock_status")
    rows = ([show.cell(getattr(r, c)) for c in columns] for r in answer.regional_pricing)
    show.table(columns, rows)


@types.command("delete")
def delete_type(
    context: typer.Context, type_id: Type, yes: Yes = False, json: Json = False
) -> None:
    """Delete an instance type that no live node has."""
    confirm(f"delete instance type {type_id}?", yes=yes)
    answer = plane_of(context).call("InstanceTypeService.DeleteInstanceType", id=str(type_id))
    show.one(answer, json=json)


@catalog.command("import")
def import_(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="JSON; default the examples that ship with us.")
    ] = None,
    list_prices: Annotated[
        bool, typer.Option("--list-prices", help="The providers' list prices that ship with us.")
    ] = False,
) -> None:
    """Import regions, instance types and models, whole or not at all.

    Works on the database of SPOTPLANE_DATABASE_URL, or of `spotplane dev`. Repeating is safe. List
    prices say of when they are and where from; have them checked before they decide anything.
    """
    import json

    from spotplane_server.catalog import seed

    if file and list_prices:
        fail("give a file or --list-prices, not both", status=MISUSED)
    try:
        shipped = seed.LIST_PRICES if list_prices else seed.EXAMPLES
        document = json.loads(file.read_bytes()) if file else seed.load_bundled(shipped)
    except (OSError, ValueError) as err:
        fail(f"{file}: {err}", status=MISUSED)
    if not isinstance(document, dict):
        fail(f"{file}: must be a JSON object", status=MISUSED)
    report = asyncio.run(_import(context, document))
    kinds = sorted(report.created | report.updated | report.unchanged)
    rows = (
        (kind, *(str(tally[kind]) for tally in (report.created, report.updated, report.unchanged)))
        for kind in kinds
    )
    show.table(("what", "created", "updated", "unchanged"), rows)
    for provider, origin in document.get("providers", {}).items():
        typer.echo(f"{provider}, as of {origin.get('as_of', '?')}: {origin.get('source', '?')}")


async def _import(context: typer.Context, document: dict[str, Any]) -> Report:
    from datetime import UTC, datetime

    from spotplane_server.catalog import seed
    from spotplane_server.kernel.db import partitions
    from spotplane_server.kernel.db.database import ALL_TENANTS

    now = datetime.now(UTC)
    async with database_of(context) as db:
        # Audit rows and events need their month's partitions, also before any server ran.
        await partitions.PartitionJob(db).run_once(now)
        try:
            async with db.transaction(ALL_TENANTS) as conn:
                return await seed.import_catalog(conn, document, now)
        except seed.InvalidDocument as err:
            fail(err.message)
