"""Background tasks of the bridge that end although they must not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from spotplane_bridge.app import serve
from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.tasks import BackgroundTaskEnded, background_task

from tests.support.eventually import eventually


def running_task(name: str) -> asyncio.Task[None] | None:
    return next((t for t in asyncio.all_tasks() if t.get_name() == name), None)


@pytest.mark.parametrize("error", [None, ValueError("a defect")], ids=["returns", "raises"])
async def test_end_before_the_block_is_reported(error: Exception | None) -> None:
    ended = asyncio.Event()

    async def work() -> None:
        if error is not None:
            raise error

    async with background_task(work(), "work", ended.set):
        await asyncio.wait_for(ended.wait(), 5)


@pytest.mark.parametrize("name", ["health", "upstream"])
async def test_bridge_process_stops_with_an_error(config: BridgeConfig, name: str) -> None:
    """A supervisor starts a process anew that exits; one that serves on has stale health."""
    serving = asyncio.create_task(serve(replace(config, drain_notice_s=0)))
    await eventually(lambda: running_task(name) is not None)
    task = running_task(name)
    assert task is not None
    task.cancel()
    with pytest.raises(BackgroundTaskEnded):
        await asyncio.wait_for(serving, 15)
