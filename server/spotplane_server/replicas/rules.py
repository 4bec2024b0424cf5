"""Placement and states of replicas: pure decisions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

Status: TypeAlias = Literal["launching", "syncing", "ready", "promoted", "terminated", "failed"]

LIVE: Final = ("launching", "syncing", "ready")
STATUSES: Final = (*LIVE, "promoted", "terminated", "failed")

# From which states a report may lead to which. `promoted` is the plane's own decision.
SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "launching": ("launching",),
    "syncing": ("launching", "syncing", "ready"),
    "ready": ("launching", "syncing", "ready"),
    "failed": LIVE,
    "terminated": (*LIVE, "failed", "terminated"),
}

# A transfer that is so far done makes a replica ready.
READY_AT_PERCENT: Final = 100.0

# An agent asks for launches every 30 seconds, and a launch may take five minutes; a stream's order
# is tried three times for five.
LAUNCH_WITHIN: Final = timedelta(minutes=20)

# So many failed launches within this time, and a pool is left alone.
EXCLUDED_AFTER: Final = 3
EXCLUDED_FOR: Final = timedelta(hours=1)

BACKOFF_FIRST: Final = timedelta(seconds=60)
BACKOFF_LAST: Final = timedelta(minutes=15)


def retry_at(failed_at: datetime, failures: int) -> datetime:
    """When to launch again after ``failures`` failures in a row: 60 s, doubling to 15 min."""
    if failures < 1:
        return failed_at
    doublings: int = 2 ** min(failures - 1, 10)
    return failed_at + min(BACKOFF_LAST, BACKOFF_FIRST * doublings)
