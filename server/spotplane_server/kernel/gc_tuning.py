"""Garbage collector tuning: keeps pauses short with thousands of open streams.

A full collection looks at every object: half a second for the objects of 5,000 streams, in which
no call is served. So the survivors of a full collection are frozen, i.e. left out of later ones, as
soon as it takes longer than 10 ms. They have just been found alive, so no garbage is frozen with
them, and the next full collection sees new objects only.

An object that becomes part of a dead cycle after it was frozen stays in memory until everything is
looked at again. Calls leave no such cycle, apart from a few small objects of gRPC's own. Everything
is looked at after 15 minutes, and earlier when memory has grown by a quarter and by at least
64 MiB; then not so often that more than a thousandth of the time is spent on it, so that the growth
of a fleet that connects does not cause the pauses that freezing avoids.

CPU time of collections, in milliseconds, while 5,000 sessions of 130 objects connect, and then 15
of them are replaced each second, with 1,000 other short cycles per second (40 s in all):

    default settings             longest 105, all 544
    freeze every 2 s (formerly)  longest  29, all 272, and garbage is frozen with the rest
    this scheme                  longest  15, all 226
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_OLDEST: Final = 2
_STATM: Final = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class Policy:
    """When objects are frozen, and when everything is looked at.

    Attributes:
        longest_pause_seconds: Of CPU time, for a full collection without consequences: that of
            40,000 objects, and about the time of a slow statement, so that no caller notices.
        check_seconds: Between checks of the memory in use.
        whole_seconds: Longest time between two looks at everything.
        growth_bytes: Short of it a look at everything costs more than it can free.
        seconds_per_object: Least time between two looks, for each frozen object: a thousand times
            what a look takes for it.
    """

    longest_pause_seconds: float = 0.010
    check_seconds: float = 2.0
    whole_seconds: float = 900.0
    growth_bytes: int = 64 * 1024 * 1024
    seconds_per_object: float = 0.0002


async def run(policy: Policy | None = None) -> None:
    """Tend the collector of this process until cancelled."""
    policy = policy or Policy()
    freezer = _Freezer(policy.longest_pause_seconds)
    gc.callbacks.append(freezer)
    try:
        look = _Look()
        while True:
            await asyncio.sleep(policy.check_seconds)
            if look.is_outdated(policy):
                look = _Look()
    finally:
        gc.callbacks.remove(freezer)
        gc.unfreeze()


class _Freezer:
    """Freezes the survivors of full collections that take too long; a callback of `gc`."""

    def __init__(self, longest_pause_seconds: float) -> None:
        self._longest = longest_pause_seconds
        self._started = 0.0

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] != _OLDEST:
            return
        if phase == "start":
            self._started = time.thread_time()
        elif time.thread_time() - self._started > self._longest:
            gc.freeze()


class _Look:
    """A look at everything, which finds all garbage and leaves the rest to the freezer."""

    def __init__(self) -> None:
        gc.unfreeze()
        gc.collect()
        self._at = time.monotonic()
        self._resident = resident_bytes()

    def is_outdated(self, policy: Policy) -> bool:
        """Whether there may be much garbage among the frozen objects."""
        frozen, elapsed = gc.get_freeze_count(), time.monotonic() - self._at
        if not frozen or elapsed < min(policy.whole_seconds, frozen * policy.seconds_per_object):
            return False
        grown = resident_bytes() - self._resident
        return elapsed >= policy.whole_seconds or grown > max(
            policy.growth_bytes, self._resident // 4
        )


def resident_bytes() -> int:
    """Physical memory of this process."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
