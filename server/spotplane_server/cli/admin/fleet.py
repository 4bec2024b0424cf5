"""Instances and switches, and the market that they are chosen from."""

from __future__ import annotations

from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import (
    Agent,
    Json,
    Limit,
    Yes,
    confirm,
    group,
    plane_of,
)
from spotplane_server.cli.failures import fail

instances = group("Instances.")
pools = group("Pools: a type of spot instance in a zone, and its prices.")

Instance = Annotated[str, typer.Argument(metavar="INSTANCE", help="The cloud's id.")]

_INSTANCES = (
    "id tenant_name logical_agent_id status instance_type az mode pool_id spot_price_nanousd "
    "on_demand_price_nanousd created_at"
)
_SWITCHES = (
    "id trigger cause success old_instance_id new_instance_id old_pool_id new_pool_id "
    "savings_impact_nanousd downtime_seconds initiated_at"
)
_RUNS = (
    "job status started_at records_processed duplicates_removed gaps_interpolated "
    "backfills_added error"
)


@instances.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="UUID; default every tenant.")] = None,
    status: Annotated[str | None, typer.Option(help="active or terminated.")] = None,
    mode: Annotated[str | None, typer.Option(help="spot or ondemand.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of an id, type or name.")] = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """List instances."""
    answer = plane_of(context).call(
        "FleetService.ListInstances",
        tenant_id=tenant,
        status=status,
        mode=mode,
        search=search,
        limit=limit,
    )
    show.many(answer, _INSTANCES, json=json)


@instances.command()
def zombies(context: typer.Context, agent: Agent, json: Json = False) -> None:
    """List what an agent is to end now; what nobody consented to is not among it."""
    plane = plane_of(context)
    answer = plane.call("FleetService.ListInstancesToTerminate", agent_id=plane.agent_id(agent))
    show.many(answer, "instance_id instance_type az reason waiting_seconds", json=json)


@instances.command()
def terminate(
    context: typer.Context,
    instances: Annotated[list[str], typer.Argument(metavar="INSTANCE…", help="The cloud's ids.")],
    dry_run: Annotated[bool, typer.Option(help="Say what would be done.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Consent to the end of zombies, and of replicas whose end nobody confirmed."""
    if not dry_run:
        confirm(f"end {', '.join(instances)}?", yes=yes)
    answer = plane_of(context).call(
        "FleetService.BulkExecute",
        operation="terminate_instances",
        instance_ids=instances,
        confirm=True,
        dry_run=dry_run,
    )
    show.many(answer, "instance_id status error", json=json)
    if answer.failed:
        fail(f"{answer.failed} of {answer.total} could not be done")


def switch(
    context: typer.Context,
    instance: Instance,
    target: Annotated[
        str | None, typer.Option("--to", help="ondemand, spot (the cheapest other) or pool.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="The pool to go to.")] = None,
    tenant: Annotated[str | None, typer.Option(help="UUID, where two have equal ids.")] = None,
    auto_terminate: Annotated[
        bool | None, typer.Option(help="End the old instance; default as the agent is set.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Move an agent from its instance to another one."""
    confirm(f"switch {instance} to {pool or target or 'another pool'}?", yes=yes)
    answer = plane_of(context).call(
        "FleetService.ForceSwitch",
        instance_id=instance,
        tenant_id=tenant,
        target=target,
        pool_id=pool,
        auto_terminate=auto_terminate,
    )
    show.one(answer, json=json)


def switches(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="UUID.")],
    instance: Annotated[str | None, typer.Option(help="To or from this one.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List a tenant's switches, newest first."""
    answer = plane_of(context).call(
        "FleetService.ListSwitches", tenant_id=tenant, instance_id=instance, limit=limit
    )
    show.many(answer, _SWITCHES, json=json)


@pools.command()
def statistics(context: typer.Context, json: Json = False) -> None:
    """Show what the plane knows of the market, region by region."""
    answer = plane_of(context).call("MarketService.GetPoolStatistics")
    columns = "region pool_count average_nanousd cheapest_pool cheapest_nanousd"
    show.many(answer, columns, json=json, field="regions")


@pools.command()
def prices(context: typer.Context, instance: Instance, json: Json = False) -> None:
    """Show what an instance's type costs in each pool of its region."""
    answer = plane_of(context).call("MarketService.GetInstancePricing", instance_id=instance)
    show.many(answer, "pool.id pool.az price_nanousd savings_percent", json=json, field="offers")


@pools.command()
def runs(
    context: typer.Context,
    days: Annotated[int | None, typer.Option(help="How far back.")] = None,
    json: Json = False,
) -> None:
    """List what the price pipeline has done."""
    show.many(plane_of(context).call("MarketService.ListPipelineRuns", days=days), _RUNS, json=json)
