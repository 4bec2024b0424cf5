"""Tasks that have an owner: ended with its block, and their failure is its failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def owned(coroutine: Coroutine[Any, Any, Any], name: str) -> AsyncIterator[asyncio.Task[Any]]:
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
