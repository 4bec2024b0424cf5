"""Documents made from the API's descriptors."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from spotplane_server.cli.failures import MISUSED, fail, needs


def openapi() -> None:
    """Print the OpenAPI 3.1 document of every route."""
    import json

    try:
        from spotplane_bridge import openapi as documents
        from spotplane_bridge.legacy import registry
        from spotplane_bridge.routes import load_routes
    except ModuleNotFoundError as err:
        needs("bridge", err)
    document = documents.build(load_routes(), registry.load())
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def envoy(
    directory: Annotated[
        Path | None, typer.Argument(help="Write envoy.yaml and descriptors.binpb here.")
    ] = None,
    place: Annotated[
        str | None,
        typer.Option("--as", help="Where the directory will be on the machine that runs Envoy."),
    ] = None,
) -> None:
    """Print Envoy's configuration, or write it with its descriptors into a directory.

    Settings come from SPOTPLANE_EDGE_*.
    """
    try:
        from spotplane_bridge.edge.config import EdgeConfig, EdgeConfigError
        from spotplane_bridge.edge.generate import render, write
    except ModuleNotFoundError as err:
        needs("bridge", err)
    try:
        config = EdgeConfig.from_env(os.environ)
    except EdgeConfigError as err:
        fail(*str(err).split("; "), status=MISUSED)
    where = PurePosixPath(place) if place else None
    if directory is None:
        typer.echo(render(config, where) if where else render(config), nl=False)
        return
    directory.mkdir(parents=True, exist_ok=True)
    typer.echo(f"wrote {write(config, directory, place=where)}")
