"""Prices and the clean series: what is believed, in which bucket, from whom, and how surely."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

Source: TypeAlias = Literal["primary", "replica-automatic", "replica-manual", "unknown"]
CleanSource: TypeAlias = Source | Literal["interpolated"]

BUCKET: Final = timedelta(minutes=5)
MAX_NANOUSD: Final = 100 * 10**9
# On-demand price of a type whose own was never told.
FALLBACK_ON_DEMAND_NANOUSD: Final = 41_600_000
# What a replica is planned to cost in a pool without a price.
PLANNED_NANOUSD: Final = 50_000_000

# An agent's clock is not believed further off than this; the time of receipt counts then.
AHEAD: Final = timedelta(minutes=5)
BEHIND: Final = timedelta(hours=24)

# Two prices of one bucket further apart than this are worth a line in the log.
DISAGREEMENT: Final = 0.10

# Who is believed over whom, and how surely. A gap's confidence depends on its length.
PRIORITY: Final[dict[CleanSource, int]] = {
    "primary": 4,
    "replica-automatic": 3,
    "replica-manual": 2,
    "interpolated": 1,
    "unknown": 0,
}
CONFIDENCE: Final[dict[Source, float]] = {
    "primary": 1.0,
    "replica-automatic": 0.95,
    "replica-manual": 0.95,
    "unknown": 0.5,
}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def bucket(at: datetime) -> datetime:
    """Start of the five minutes that an instant lies in."""
    return floor(at, BUCKET)


def floor(at: datetime, step: timedelta) -> datetime:
    """The last multiple of ``step`` since 1970, UTC, that is not after an instant."""
    return at - (at - _EPOCH) % step


def believed(observed_at: datetime, received_at: datetime) -> datetime:
    """When a price was seen; the time of receipt when the reporter's clock is off."""
    if received_at - BEHIND <= observed_at <= received_at + AHEAD:
        return observed_at
    return received_at


def acceptable(price_nanousd: int) -> bool:
    """Whether a price an hour is possible: above 0, at most 100 dollars."""
    return 0 < price_nanousd <= MAX_NANOUSD
