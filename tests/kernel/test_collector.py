"""Frozen objects: what is frozen was alive, and garbage among them is found in the end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from spotplane_server.kernel import gc_tuning
from spotplane_server.kernel.background_task import task_scope

from tests.support.eventually import eventually


class Cycle:
    """An object that only the garbage collector frees."""

    def __init__(self) -> None:
        self.me = self


# Finds every full collection too long, and checks all the time.
EAGER = gc_tuning.Policy(
    longest_pause_seconds=0.0, check_seconds=0.01, growth_bytes=1024, seconds_per_object=0.0
)


@pytest.fixture
async def tended() -> AsyncIterator[None]:
    async with task_scope(gc_tuning.run(EAGER), "collector"):
        await eventually(lambda: gc.get_freeze_count() > 0)
        yield


@pytest.mark.usefixtures("tended")
async def test_a_full_collection_that_takes_long_freezes_what_is_alive_and_no_garbage() -> None:
    alive, dead = Cycle(), weakref.ref(Cycle())
    before = gc.get_freeze_count()

    gc.collect()

    assert dead() is None
    assert gc.get_freeze_count() > before
    # A collection does not look at frozen objects.
    frozen = weakref.ref(alive)
    del alive
    gc.collect()
    assert frozen() is not None


@pytest.mark.usefixtures("tended")
async def test_garbage_among_frozen_objects_is_found_when_memory_has_grown() -> None:
    alive = Cycle()
    gc.collect()
    frozen = weakref.ref(alive)
    del alive

    grown: Any = b"x" * (gc_tuning.resident_bytes() // 2)
    await eventually(lambda: frozen() is None)
    del grown


async def test_nothing_stays_frozen_when_it_ends() -> None:
    async with task_scope(gc_tuning.run(), "collector"):
        await asyncio.sleep(0)
    assert gc.get_freeze_count() == 0
