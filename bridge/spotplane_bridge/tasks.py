"""Background tasks of the process: their unexpected end is reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class BackgroundTaskEnded(Exception):
    """A task that the bridge needs has ended; the log has its error."""


@asynccontextmanager
async def background_task(
    coroutine: Coroutine[Any, Any, None], name: str, on_end: Callable[[], None]
) -> AsyncIterator[None]:
    """Run a coroutine that never ends by itself beside the block; cancel it with the block.

    Args:
        coroutine: What to run.
        name: Of the task, for the log.
        on_end: Called when it ended before the block did, for any reason.
    """
    is_over = False

    def ended(task: asyncio.Task[None]) -> None:
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
