"""How commands end badly: one line on standard error, and a status that scripts can tell apart."""

from __future__ import annotations

from typing import Final, NoReturn

import typer

REFUSED: Final = 1
MISUSED: Final = 2


def fail(*lines: str, status: int = REFUSED) -> NoReturn:
    """Say why on standard error, one line each, and end.

    Args:
        lines: What is wrong.
        status: 1 when it was tried and refused, 2 when the settings make trying useless.
    """
    for line in lines:
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(status)


def needs(extra: str, err: ModuleNotFoundError) -> NoReturn:
    """End because an optional part is not installed."""
    fail(f"{err.name} is missing; install it with: pip install 'spotplane[{extra}]'")
