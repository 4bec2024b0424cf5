"""`spotplane backtest`: a recorded market, replayed through an engine and plain policies."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spotplane_server.cli.failures import MISUSED, fail, needs

if TYPE_CHECKING:
    from spotplane_server.decisions.backtest.comparison import Comparison, Result
    from spotplane_server.decisions.engine import Engine

DEFAULT_ENGINE = "hedge"


def backtest(
    market: Annotated[
        Path, typer.Option(help="Recorded spot market (csv, csv.gz): a row per tick.")
    ],
    on_demand: Annotated[
        float, typer.Option(metavar="PRICE", help="Of on-demand, dollars an hour.")
    ],
    engine: Annotated[
        str, typer.Option(help="Built-in engine, or one that is installed.")
    ] = DEFAULT_ENGINE,
    standbys: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="Held at all times; without it as the engine says."),
    ] = None,
    notice: Annotated[
        int, typer.Option(min=0, metavar="SECONDS", help="From a notice to the loss.")
    ] = 120,
    boot: Annotated[
        int, typer.Option(min=0, metavar="SECONDS", help="From a launch to service.")
    ] = 180,
    step: Annotated[
        int | None,
        typer.Option(min=1, metavar="SECONDS", help="Of a tick, in a file without times."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write results; - for stdout.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write cost against availability (png, svg)."),
    ] = None,
) -> None:
    """Replay a recorded market for a service that must always have one serving instance.

    Prints cost and availability of the engine, of plain policies, and of the omniscient optimum.
    """
    if not (math.isfinite(on_demand) and 0 < on_demand <= 1_000_000):
        fail("--on-demand must be a price above 0", status=MISUSED)
    try:
        from spotplane_server.decisions.backtest import recording
        from spotplane_server.decisions.backtest.comparison import compare
        from spotplane_server.decisions.backtest.fleet import Rules
        from spotplane_server.decisions.validation import EngineFault
    except ModuleNotFoundError as err:
        needs("server", err)
    if plot is not None:
        _check_plot(plot)
    chosen = _engine(engine)
    try:
        recorded = recording.read(market, step)
    except recording.BadRecording as err:
        fail(str(err))
    except OSError as err:
        fail(f"{market}: {err.strerror}")
    rules = Rules(int(Decimal(str(on_demand)) * recording.NANO), boot, notice)
    try:
        comparison = compare(recorded, chosen, rules, standbys=standbys)
    except EngineFault as err:
        fail(str(err))
    _write(comparison, json_file, plot)


def _engine(name: str) -> Engine:
    from spotplane_server.decisions.engines import BUILT_IN, installed

    make = BUILT_IN.get(name)
    if make is not None:
        return make()
    try:
        return installed.load(name)
    except installed.EngineMissing as err:
        fail(f"{err}; built in are {', '.join(sorted(BUILT_IN))}", status=MISUSED)


def _check_plot(path: Path) -> None:
    """End before the work is done when its picture could not be drawn."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as err:
        needs("plots", err)
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        fail(f"--plot: {path.name} must end in one of {', '.join(sorted(kinds))}", status=MISUSED)


def _write(comparison: Comparison, json_file: Path | None, plot: Path | None) -> None:
    text = json.dumps(comparison.as_json(), indent=2)
    try:
        if json_file == Path("-"):
            typer.echo(text)
        else:
            _show(comparison)
            if json_file is not None:
                json_file.write_text(text + "\n", encoding="utf-8")
        if plot is not None:
            from spotplane_server.decisions.backtest import picture

            picture.draw(comparison, plot)
    except OSError as err:
        fail(f"{err.filename}: {err.strerror}")


def _show(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    rules, result = comparison.rules, comparison.result
    table = Table(
        title=f"{result.market}: {len(comparison.zones)} zones, {comparison.ticks} ticks, "
        f"{comparison.seconds / 86_400:.1f} days\n"
        f"boot {rules.boot_seconds} s, notice {rules.notice_seconds} s, "
        f"on-demand {rules.on_demand / 1e9:g} $/h",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    table.add_column("policy", no_wrap=True)
    for name in ("served", "cost", "× optimum", "switches", "losses", "survived", "down, s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*_row(result), style="bold")
    for baseline in comparison.baselines:
        table.add_row(*_row(baseline))
    optimum = f"{result.optimum_cost_share:.3f}"
    table.add_row("optimum", "100.000 %", optimum, "1.00", "", "", "", "0")
    console = Console()
    console.print(table)
    console.print(
        "Costs are shares of always on-demand. The optimum knows the future.", style="dim"
    )


def _row(result: Result) -> tuple[str, ...]:
    return (
        result.engine,
        f"{result.availability:.3%}".replace("%", " %"),
        f"{result.cost_share:.3f}",
        f"{result.optimum_ratio:.2f}",
        str(result.switches),
        str(result.losses),
        str(result.losses_survived),
        str(result.downtime_seconds),
    )
