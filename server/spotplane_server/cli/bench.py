"""The benchmarks, which bring their own command line."""

from __future__ import annotations

from importlib import import_module

import typer

from spotplane_server.cli.failures import fail


def bench(context: typer.Context) -> None:
    """Measure a running plane; `spotplane bench --help` lists what."""
    try:
        main = import_module("spotplane_bench.main")
    except ModuleNotFoundError as err:
        fail(f"the benchmarks cannot run here: {err}")
    main.app(args=context.args, prog_name="spotplane bench")
