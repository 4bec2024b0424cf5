"""What is decided about agents and their commands without asking anybody: pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

Dialect: TypeAlias = Literal["loop", "action"]

# Of a tenant without a quota of its own. Ten times the fleet that `spotplane bench fleet` measures;
# it bounds what a leaked key can create to some hundred megabytes.
MAX_AGENTS: Final = 100_000

LEASE: Final = timedelta(seconds=600)
EMERGENCY_LEASE: Final = timedelta(seconds=300)
EXPIRES_IN: Final = timedelta(hours=1)
EMERGENCY_EXPIRES_IN: Final = timedelta(minutes=5)
EMERGENCY: Final = 100

# Words that agents in the field use for their state; whatever else they say means that they live.
_WORDS: Final = {
    "online": "online",
    "running": "online",
    "offline": "offline",
    "stopping": "offline",
    "stopped": "offline",
    "terminated": "offline",
    "disabled": "disabled",
    "switching": "switching",
    "error": "error",
}


# A poll by name is a sign of life; one in this time is enough.
HEARD_BY_POLL: Final = timedelta(seconds=20)

# What agents of a dialect understand. A loop agent takes any other word for a switch.
_LOOP: Final = ("switch",)
_ACTION: Final = ("switch", "promote_replica", "terminate", "update_config")
_REPLICAS: Final = ("create_replica", "terminate_replica")
# An agent that asks for its replicas does so every half minute; one that has just started has not
# yet done all that it will.
ASKS_WITHIN: Final = timedelta(minutes=5)
SETTLES_WITHIN: Final = timedelta(seconds=60)


def deliverable(
    dialect: Dialect,
    replicas_polled_at: datetime | None,
    registered_at: datetime | None,
    now: datetime,
) -> tuple[str, ...]:
    """Types of commands that a poll may be answered with.

    Whoever asks for its replicas learns there what to launch and to end; an order besides would
    have it do so twice.
    """
    asks = replicas_polled_at is not None and replicas_polled_at > now - ASKS_WITHIN
    settled = registered_at is None or registered_at <= now - SETTLES_WITHIN
    known = _LOOP if dialect == "loop" else _ACTION
    return known if asks or not settled else (*known, *_REPLICAS)


def status_said(word: str) -> str:
    """What an agent's word for its own state means."""
    return _WORDS.get(word.strip().lower(), "online")


def status_shown(said: str, *, enabled: bool, switching: bool) -> str:
    """What an agent's state is, when it says so itself.

    Args:
        said: One of `status_said`.
        enabled: Whether it carries out commands; a live one that does not is `disabled`.
        switching: Whether it holds a switch that it has not finished.
    """
    if said == "offline":
        return said
    if not enabled:
        return "disabled"
    return "switching" if switching and said == "online" else said


def minutes_shown(seconds: int) -> int:
    """Seconds as whole minutes: rounded, and at least 1 when there are any."""
    return max(1, (seconds + 30) // 60) if seconds > 0 else 0


def seconds_meant(minutes: int, present: int) -> int:
    """Seconds of a number of minutes; those that show as just that many stay as they are."""
    return present if minutes == minutes_shown(present) else minutes * 60


@dataclass(frozen=True, slots=True)
class Quota:
    """How large a tenant's fleet may grow.

    Attributes:
        max_agents: Agents that are not deleted; None for `MAX_AGENTS`.
        max_instances: Live instances; None for no limit.
    """

    max_agents: int | None
    max_instances: int | None
