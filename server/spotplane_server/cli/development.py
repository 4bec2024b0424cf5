"""`spotplane dev`: options only; the work is in `spotplane_server.dev`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from spotplane_server.cli.failures import needs

Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]


def dev(
    data_dir: Annotated[Path, typer.Option(help="Everything is kept here.")] = Path(".spotplane"),
    agents: Annotated[int, typer.Option(min=0, max=500, help="Simulated agents.")] = 20,
    demo: Annotated[bool, typer.Option(help="Tenants, agents, traffic and notices.")] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live view.")] = False,
    first_notice: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Until the first termination notice.")
    ] = 60.0,
    notice_every: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Between the later ones.")
    ] = 60.0,
    market: Annotated[
        Path | None,
        typer.Option(help="Recorded spot market to replay (csv, csv.gz): a row per tick."),
    ] = None,
    market_type: Annotated[
        str | None, typer.Option(help="Its instance type; default by the file's name.")
    ] = None,
    market_tick: Annotated[
        float, typer.Option(min=0.05, metavar="SECONDS", help="How long a tick lasts.")
    ] = 5.0,
    port: Port = 8080,
    bridge_port: Port = 8081,
    grpc_port: Port = 50051,
) -> None:
    """Run everything on this machine: PostgreSQL, server, bridge, Envoy, and a demo fleet.

    Nothing needs to be installed beforehand. Addresses, the admin token and the demo tenants'
    keys are in DATA_DIR/dev.json once it is ready. Ctrl-C ends all of it; the data stay.
    """
    # Our children are new programs; gRPC would warn of each that it did not prepare for a fork.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        from spotplane_server.dev.run import Options, run
    except ModuleNotFoundError as err:
        needs("server,bridge,stack", err)
    raise typer.Exit(
        run(
            Options(
                data_dir=data_dir.absolute(),
                agents=agents if demo else 0,
                demo=demo,
                plain=plain,
                first_notice_seconds=first_notice,
                notice_every_seconds=notice_every,
                market=market,
                market_type=market_type,
                market_tick_seconds=market_tick,
                port=port,
                bridge_port=bridge_port,
                grpc_port=grpc_port,
            )
        )
    )
