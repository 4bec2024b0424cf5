"""Every benchmark runs to its end, at sizes that measure nothing."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from spotplane_bench import (
    commands,
    failovers,
    fleet,
    frontends,
    ingest,
    limits,
    machine,
    results,
    streams,
    unary,
    usage,
)
from spotplane_bench.abuse import bench as abuse
from spotplane_bench.stack import Stack

BENCHES: list[tuple[Callable[[Stack, Any], Awaitable[results.Result]], Any]] = [
    (unary.run, unary.TINY),
    (frontends.run, frontends.TINY),
    (streams.run, streams.TINY),
    (fleet.run, fleet.TINY),
    (commands.run, commands.TINY),
    (failovers.run, failovers.TINY),
    (ingest.run, ingest.TINY),
    (usage.run, usage.TINY),
    (limits.run, limits.TINY),
    (abuse.run, abuse.TINY),
]


@pytest.mark.timeout(180)  # several processes start for each
@pytest.mark.parametrize(("bench", "plan"), BENCHES, ids=lambda it: getattr(it, "__module__", ""))
async def test_a_benchmark_measures_every_number_it_names(
    bench: Callable[[Stack, Any], Awaitable[results.Result]],
    plan: Any,
    database_url: str,
    tmp_path: Path,
) -> None:
    """A run at tiny size gives each number with its yardstick, and can be shown and saved."""
    result = await bench(Stack(database_url, tmp_path), plan)

    results.show(result, Console(quiet=True))
    results.save(tmp_path / "result.json", machine.describe("a test"), [result])
    saved = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert saved["machine"]["packages"]["grpcio"]
    (found,) = saved["results"]
    assert found["rows"]
    assert found["yardstick"]
    assert all(row["value"] >= 0 for row in found["rows"])
