"""Background tasks that end although they must not."""

from __future__ import annotations

import asyncio

import pytest
from spotplane_server.app import BackgroundTaskEnded, serve
from spotplane_server.kernel.background_task import background_task

from tests.support.eventually import eventually
from tests.support.plane import Plane, config


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


async def test_end_with_the_block_is_not_reported() -> None:
    ended = asyncio.Event()
    async with background_task(asyncio.Event().wait(), "work", ended.set):
        pass
    assert not ended.is_set()


async def test_server_knows_that_a_background_task_has_ended(plane: Plane) -> None:
    task = running_task("wakeups")
    assert task is not None
    assert not plane.server.failed.is_set()
    task.cancel()
    await asyncio.wait_for(plane.server.failed.wait(), 5)


async def test_server_process_stops_with_an_error(database_url: str) -> None:
    """A supervisor starts a process anew that exits; one that lives on without it misses work."""
    serving = asyncio.create_task(serve(config(database_url, drain_notice_seconds=0)))
    await eventually(lambda: running_task("health") is not None)
    task = running_task("jobs")
    assert task is not None
    task.cancel()
    with pytest.raises(BackgroundTaskEnded):
        await asyncio.wait_for(serving, 15)
