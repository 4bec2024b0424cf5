"""An operator at a running plane."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Done, spotplane
from tests.support.plane import ADMIN_TOKEN, Plane

Run = Callable[..., Awaitable[Done]]


class Operator:
    """Runs `spotplane admin` against the test's plane."""

    def __init__(self, plane: Plane, directory: Path) -> None:
        self._settings = {
            "SPOTPLANE_TARGET": plane.target,
            "SPOTPLANE_ADMIN_TOKEN": ADMIN_TOKEN,
            "SPOTPLANE_DATABASE_URL": plane.database_url,
        }
        self._directory = directory

    async def run(self, *arguments: str, **settings: str) -> Done:
        """Run a command of any kind."""
        return await spotplane(*arguments, cwd=self._directory, **(self._settings | settings))

    async def admin(self, *arguments: str) -> str:
        """Run `spotplane admin …`, which must succeed, and answer what it prints."""
        done = await self.run("admin", *arguments)
        assert done.status == 0, done
        return done.out

    async def read(self, *arguments: str) -> Any:
        """Run `spotplane admin … --json` and read what it prints."""
        return json.loads(await self.admin(*arguments, "--json"))


@pytest.fixture
def operator(plane: Plane, tmp_path: Path) -> Operator:
    return Operator(plane, tmp_path)
