"""The command line as users run it: another process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COMMAND = (sys.executable, "-m", "spotplane_server.cli")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these SPOTPLANE_* settings and no others."""
    kept = {name: value for name, value in os.environ.items() if "SPOTPLANE" not in name}
    return kept | dict(settings)


async def spotplane(*arguments: str, cwd: Path | None = None, **settings: str) -> Done:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        cwd=cwd,
        env=environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Done(process.returncode or 0, out.decode(), err.decode())
