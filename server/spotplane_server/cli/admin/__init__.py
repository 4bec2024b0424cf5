"""`spotplane admin`: what an operator does by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spotplane_server.cli.admin import (
    agents,
    audit,
    budgets,
    catalog,
    decisions,
    failovers,
    fleet,
    keys,
    nodes,
    reports,
    tenants,
    tokens,
    usage,
)

app = typer.Typer(
    help="What an operator does by hand.\n\nTalks to SPOTPLANE_TARGET with SPOTPLANE_ADMIN_TOKEN "
    "(or …_FILE), or to the plane that `spotplane dev` runs.",
    no_args_is_help=True,
)


@app.callback()
def main(
    context: typer.Context,
    target: Annotated[str | None, typer.Option(help="The plane's gRPC door.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Of `spotplane dev`.")] = Path(".spotplane"),
    tls: Annotated[bool, typer.Option(help="Speak TLS.")] = False,
) -> None:
    """Remember where the plane is; a command connects when it calls."""
    context.obj = (target, data_dir, tls)


app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
app.add_typer(catalog.regions, name="regions")
app.add_typer(catalog.types, name="instance-types")
app.add_typer(catalog.catalog, name="catalog")
app.add_typer(agents.app, name="agents")
app.add_typer(agents.commands, name="commands")
app.add_typer(fleet.instances, name="instances")
app.add_typer(nodes.app, name="nodes")
app.command("switch")(fleet.switch)
app.command("switches")(fleet.switches)
app.add_typer(failovers.replicas, name="replicas")
app.add_typer(reports.emergencies, name="emergencies")
app.add_typer(failovers.failovers, name="failovers")
app.command("notice")(failovers.notice)
app.command("events")(failovers.events)
app.add_typer(audit.app, name="audit")
app.add_typer(budgets.app, name="budgets")
app.add_typer(fleet.pools, name="pools")
app.add_typer(decisions.engines, name="engines")
app.add_typer(decisions.models, name="models")
app.add_typer(reports.savings, name="savings")
app.add_typer(reports.clients, name="clients")
app.add_typer(usage.app, name="usage")
app.add_typer(tokens.app, name="token")
