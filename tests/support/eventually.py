"""Waiting for a state instead of for time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    probe: Callable[[], Awaitable[T]], *, within: float = 15.0, every: float = 0.02
) -> T: ...


@overload
async def eventually(probe: Callable[[], T], *, within: float = 15.0, every: float = 0.02) -> T: ...


async def eventually(probe: Callable[[], Any], *, within: float = 15.0, every: float = 0.02) -> Any:
    """Call ``probe`` until it answers something true, and answer that.

    Raises:
        AssertionError: It never did; the last answer or error is in the message.
    """
    deadline = time.monotonic() + within
    last: object = None
    while time.monotonic() < deadline:
        try:
            answer = probe()
            value = await answer if inspect.isawaitable(answer) else answer
        except AssertionError as err:
            last = err
        else:
            if value:
                return value
            last = value
        await asyncio.sleep(every)
    raise AssertionError(f"not within {within} s; last: {last!r}")
