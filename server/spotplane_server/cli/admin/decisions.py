"""Engines and models: what decides, what stands by, and putting another one in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import Json, Yes, confirm, group, plane_of

engines = group("What decides.")
models = group("Uploaded engines and models, each a session.")

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE…", exists=True, dir_okay=False, help="ONNX, or rules as JSON."),
]
Force = Annotated[
    bool, typer.Option(help="Also if it would switch far more often than the live one.")
]

_COLUMNS = "id kind name version status live fallback total_bytes created_at activated_at fault"


@engines.command("show")
def show_(context: typer.Context, json: Json = False) -> None:
    """Show what is live, and whether the built-in rules stand in for it."""
    answer = plane_of(context).call("DecisionService.GetEngineStatus")
    show.one(answer if json else answer.engine, json=json)


@engines.command("upload")
def upload_engine(
    context: typer.Context, files: Files, force: Force = False, json: Json = False
) -> None:
    """Upload an engine, evaluate it in shadow, and make it live."""
    answer = plane_of(context).upload("DecisionService.UploadEngine", files, force=force or None)
    show.one(answer, json=json)


@models.command("list")
def list_(context: typer.Context, json: Json = False) -> None:
    """List the newest sessions: what is live, what it falls back to, what was uploaded."""
    answer = plane_of(context).call("DecisionService.ListSessions")
    show.many(answer, _COLUMNS, json=json)


@models.command("upload")
def upload_model(
    context: typer.Context,
    files: Files,
    name: Annotated[str | None, typer.Option(help="Default its first file's.")] = None,
    version: Annotated[str | None, typer.Option(help="Default of its hash.")] = None,
    json: Json = False,
) -> None:
    """Upload a model; what is live stays so."""
    answer = plane_of(context).upload(
        "DecisionService.UploadModel", files, model_name=name, model_version=version
    )
    show.one(answer, json=json)


@models.command()
def activate(
    context: typer.Context,
    session: Annotated[str, typer.Argument(metavar="SESSION", help="UUID.")],
    force: Force = False,
    json: Json = False,
) -> None:
    """Evaluate a session in shadow and make it live; the live one becomes the fallback."""
    answer = plane_of(context).call(
        "DecisionService.ActivateSession", session_id=session, force=force or None
    )
    show.one(answer, json=json)


@models.command()
def fallback(context: typer.Context, yes: Yes = False, json: Json = False) -> None:
    """Let the live session and the fallback change places."""
    confirm("go back to the fallback?", yes=yes)
    show.one(plane_of(context).call("DecisionService.ActivateFallback"), json=json)
