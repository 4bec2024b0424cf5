"""Arguments that many commands share, and the plane they talk to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spotplane_server.cli.plane import Plane

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int | None, typer.Option(help="Most rows.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="UUID.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="UUID of the key.")]
Agent = Annotated[str, typer.Argument(metavar="AGENT", help="UUID or logical id.")]


def group(text: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=text, no_args_is_help=True)


def plane_of(context: typer.Context) -> Plane:
    """Connect to the plane that the options name."""
    from spotplane_server.cli.plane import connect

    target, data_dir, tls = context.obj
    return connect(target, data_dir, tls=tls)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be taken back."""
    if not yes:
        typer.confirm(question, abort=True)
