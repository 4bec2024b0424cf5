"""Which buckets are made next, and which periods an answer shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias
from uuid import UUID

from spotplane_server.kernel.request_context import TenantId

BUCKET: Final = timedelta(minutes=5)
# Buckets made by one transaction: seconds of work, however long an agent was silent.
MAX_BUCKETS: Final = 60_000

Range: TypeAlias = Literal["daily", "weekly", "monthly", "yearly"]
# How many periods are shown at most.
RANGES: Final[dict[Range, int]] = {"monthly": 12, "daily": 31, "weekly": 12, "yearly": 5}
_MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an agent's buckets are made.

    Attributes:
        closed_until: They are made until here, whole buckets.
        dirty_from: Start of what has to be made anew, before ``closed_until``; None for nothing.
        dirty_until: Its end.
        target: Until where they can be made now.
    """

    tenant_id: TenantId
    agent_id: UUID
    closed_until: datetime
    dirty_from: datetime | None
    dirty_until: datetime | None
    target: datetime


@dataclass(frozen=True, slots=True)
class Step:
    """Buckets to make in one transaction, and how far the agent is then."""

    start: datetime
    end: datetime
    progress: Progress


def plan(agents: Sequence[Progress], *, buckets: int = MAX_BUCKETS) -> list[Step]:
    """Choose what to make next for each agent: what is out of date first, then what is new.

    Args:
        agents: All of them with something to do.
        buckets: To be made at most, shared evenly; every agent gets at least one.
    """
    share = BUCKET * max(1, buckets // max(1, len(agents)))
    return [_step(agent, share) for agent in agents]


def _step(agent: Progress, share: timedelta) -> Step:
    if agent.dirty_from is None or agent.dirty_until is None:
        end = min(agent.target, agent.closed_until + share)
        return Step(agent.closed_until, end, _after(agent, end, None, None))
    end = min(agent.dirty_until, agent.dirty_from + share)
    left = (end, agent.dirty_until) if end < agent.dirty_until else (None, None)
    return Step(agent.dirty_from, end, _after(agent, agent.closed_until, *left))


def _after(
    agent: Progress, closed: datetime, dirty_from: datetime | None, dirty_until: datetime | None
) -> Progress:
    return Progress(agent.tenant_id, agent.agent_id, closed, dirty_from, dirty_until, agent.target)


def period(span: Range, at: datetime) -> datetime:
    """Start of the period that an instant lies in, UTC; weeks start on Monday."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match span:
        case "daily":
            return day
        case "weekly":
            return day - timedelta(days=day.weekday())
        case "monthly":
            return day.replace(day=1)
        case "yearly":
            return day.replace(month=1, day=1)


def before(span: Range, start: datetime) -> datetime:
    """Start of the period before one that starts at ``start``."""
    return period(span, start - timedelta(days=1))


def periods(span: Range, now: datetime, first: datetime | None) -> list[datetime]:
    """The periods to show, oldest first: up to the current one, none before the first bucket.

    Args:
        span: Their length.
        now: Lies in the last one.
        first: Of the time that is accounted; None when none is.

    Returns:
        Starts, without a gap; empty when nothing is accounted.
    """
    if first is None:
        return []
    starts = [period(span, now)]
    while len(starts) < RANGES[span] and starts[-1] > first:
        starts.append(before(span, starts[-1]))
    return starts[::-1]


def earliest(span: Range, now: datetime) -> datetime:
    """Start of the oldest period that may be shown."""
    start = period(span, now)
    for _ in range(RANGES[span] - 1):
        start = before(span, start)
    return start


def name(span: Range, start: datetime) -> str:
    """What people call a period: a month's name, a date, an ISO week or a year."""
    match span:
        case "daily":
            return f"{start:%Y-%m-%d}"
        case "weekly":
            year, week, _ = start.isocalendar()
            return f"{year}-W{week:02}"
        case "monthly":
            return month_name(start)
        case "yearly":
            return f"{start:%Y}"


def month_name(at: datetime) -> str:
    """A month's English name, whatever the machine's language is."""
    return _MONTHS[at.month - 1]


def days(now: datetime, count: int) -> list[datetime]:
    """Starts of the last days, today's last."""
    today = period("daily", now)
    return [today - timedelta(days=back) for back in range(count - 1, -1, -1)]


def percent_change(now: float | None, before: float | None) -> float | None:
    """By how many percent a mean has changed; None without one to compare with."""
    if now is None or not before:
        return None
    return (now - before) / before * 100
