"""Background tasks: owned by a block, and cancelled and awaited at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger(__name__)


@asynccontextmanager
async def task_scope(
    coroutine: Coroutine[Any, Any, Any], name: str
) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a coroutine beside the block; cancel it with the block.

    Raises:
        Exception: What the task raised, when the block itself ended well.
    """
    task = asyncio.create_task(coroutine, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled() and (err := task.exception()) is not None:
        raise err


@asynccontextmanager
async def background_task(
    coroutine: Coroutine[Any, Any, Any], name: str, on_end: Callable[[], None]
) -> AsyncIterator[None]:
    """Run a coroutine that never ends by itself beside the block; cancel it with the block.

    Args:
        coroutine: What to run.
        name: Of the task, for the log.
        on_end: Called when it ended before the block did, for whatever reason.
    """
    is_over = False

    def ended(task: asyncio.Task[Any]) -> None:
        if not is_over:
            error = None if task.cancelled() else task.exception()
            log.critical("background_task_ended", task=name, exc_info=error)
            on_end()

    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        is_over = True
        task.cancel()
        await asyncio.wait([task])
