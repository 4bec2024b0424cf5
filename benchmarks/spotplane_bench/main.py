"""`spotplane bench`: each benchmark prints ours beside a yardstick measured in the same run."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
import uvloop
from rich.console import Console
from rich.table import Table
from spotplane_server.kernel import logs

from spotplane_bench import (
    commands,
    failovers,
    fleet,
    frontends,
    ingest,
    limits,
    machine,
    pin_probe,
    results,
    stack,
    streams,
    unary,
    usage,
)
from spotplane_bench.abuse import bench as abuse
from spotplane_bench.faults import campaign
from spotplane_bench.results import Result, median

app = typer.Typer(help="Measure the control plane against yardsticks.")

Bench: TypeAlias = Callable[[stack.Stack, Any], Awaitable[Result]]

# By name: how it runs, its plan, and its plan when time is short.
BENCHES: Final[dict[str, tuple[Bench, Any, Any]]] = {
    "unary": (unary.run, unary.Plan(), unary.QUICK),
    "doors": (frontends.run, frontends.Plan(), frontends.QUICK),
    "streams": (streams.run, streams.Plan(), streams.QUICK),
    "commands": (commands.run, commands.Plan(), commands.QUICK),
    "failovers": (failovers.run, failovers.Plan(), failovers.QUICK),
    "ingest": (ingest.run, ingest.Plan(), ingest.QUICK),
    "fleet": (fleet.run, fleet.Plan(), fleet.QUICK),
    "usage": (usage.run, usage.Plan(), usage.QUICK),
    "limits": (limits.run, limits.Plan(), limits.QUICK),
    "abuse": (abuse.run, abuse.Plan(), abuse.QUICK),
}

Only = Annotated[
    list[str] | None, typer.Option("--only", help=f"May be repeated: {', '.join(BENCHES)}.")
]
File = Annotated[Path | None, typer.Option("--json", help="Save the results in this file.")]
Quick = Annotated[bool, typer.Option("--quick", help="A short run, for a first impression.")]
Note = Annotated[str, typer.Option("--note", help="What else runs meanwhile; goes to the file.")]


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    only: Only = None,
    file: File = None,
    quick: Quick = False,
    note: Note = "",
) -> None:
    """Run all benchmarks, or some, one after the other, each beside its yardstick."""
    if context.invoked_subcommand is not None:
        return
    _bench(only or list(BENCHES), file=file, quick=quick, note=note)


def _bench(chosen: Sequence[str], *, file: Path | None, quick: bool, note: str) -> None:
    unknown = [name for name in chosen if name not in BENCHES]
    if unknown:
        raise typer.BadParameter(f"no such benchmark: {', '.join(unknown)}")
    logs.configure("WARNING", json=False)
    head = machine.describe(note)
    with stack.postgres() as server:
        uvloop.run(_run(server, head, chosen, quick=quick, file=file))


def _command(name: str) -> None:
    @app.command(name, help=f"Run `{name}` alone.")
    def one(file: File = None, quick: Quick = False, note: Note = "") -> None:
        _bench([name], file=file, quick=quick, note=note)


for _name in BENCHES:
    _command(_name)


async def _run(
    server: Any, head: dict[str, Any], names: Sequence[str], *, quick: bool, file: Path | None
) -> None:
    console = Console()
    found: list[Result] = []
    head["postgresql"] = await stack.settings(server)
    for name in names:
        run, full, short = BENCHES[name]
        async with stack.stack(server) as up:
            result = await run(up, short if quick else full)
        results.show(result, console)
        found.append(result)
        # After each, so that a failure of a later one does not cost the earlier ones.
        if file is not None:
            results.save(file, head, found)


@app.command("grpc-pin")
def grpc_pin(
    pythons: Annotated[list[Path], typer.Argument(help="Interpreters, each with its grpcio.")],
    seconds: Annotated[float, typer.Option(help="Of each turn.")] = 3.0,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 5,
) -> None:
    """Compare versions of grpcio: the rates by which ours is pinned."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for python in pythons:
            said = _probe(python, seconds)
            found.setdefault(said["grpcio"], []).append(said)
    table = Table("grpcio", "unary calls/s", "stream messages/s")
    for version, turns in found.items():
        rates = [median([turn[kind] for turn in turns]) for kind in ("unary", "stream")]
        table.add_row(version, *(f"{rate:,.0f}" for rate in rates))
    Console().print(table)


@app.command("faults")
def inject_faults(
    seed: Annotated[list[int] | None, typer.Option(help="Draws the faults; repeat it.")] = None,
    seconds: Annotated[float, typer.Option(help="How long faults are injected.")] = 120.0,
    agents: Annotated[int, typer.Option(help="Real agents.")] = 40,
    file: File = None,
    note: Note = "",
) -> None:
    """Inject faults into real processes, and check that nothing accepted is lost or doubled."""
    logs.configure("ERROR", json=False)
    logging.disable(logging.WARNING)
    head, reports = machine.describe(note), []
    for one in seed or [1]:
        plan = campaign.Plan(one, seconds, agents)
        with stack.postgres() as server:
            reports.append(asyncio.run(_campaign(server, plan, file)))
        typer.echo(f"seed {one}: {reports[-1].counts} violations: {reports[-1].violations}")
        if file is not None:
            document = {
                "machine": head,
                "total": campaign.summary(reports),
                "campaigns": [report.as_json() for report in reports],
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if any(report.violations for report in reports):
        raise typer.Exit(1)


async def _campaign(server: Any, plan: campaign.Plan, file: Path | None) -> campaign.Report:
    async with stack.stack(server) as up:
        report = await campaign.run(server, up, plan, typer.echo)
        if report.violations and file is not None:
            # The logs of the servers and the bridge, to find out why.
            for log in up.directory.glob("*.log"):
                shutil.copy(log, file.with_suffix(f".{plan.seed}.{log.name}"))
        return report


def _probe(python: Path, seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [str(python), pin_probe.__file__, str(seconds)], capture_output=True, text=True, check=True
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


if __name__ == "__main__":
    app()
