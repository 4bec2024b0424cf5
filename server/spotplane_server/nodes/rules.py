"""What a node goes through: pure decisions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal, get_args

Status = Literal[
    "launching",
    "initializing",
    "active",
    "degraded",
    "suspect",
    "unhealthy",
    "draining",
    "terminating",
    "dead",
]

STATUSES: Final[tuple[str, ...]] = get_args(Status)
PROVIDERS: Final = ("aws", "azure", "gcp", "oci", "on-prem")
LISTED: Final = ("active", "draining")
# What a node may say of itself when it registers.
REGISTERED: Final = ("active", "initializing")
# Its health is told by heartbeats and their absence.
SERVING: Final = frozenset({"active", "degraded", "suspect", "unhealthy"})
# Silence of these means something.
HEARD: Final = (*sorted(SERVING), "draining", "initializing")
# From the best to the worst, to tell which way a node has moved.
_HEALTH: Final = ("active", "degraded", "suspect", "unhealthy", "dead")

# Half the score is the engine's: at or below it, none runs.
ENGINE_SCORE: Final = 50
DEGRADED_BELOW: Final = 50
UNHEALTHY_BELOW: Final = 20

SUSPECT_AFTER: Final = timedelta(seconds=30)
UNHEALTHY_AFTER: Final = timedelta(seconds=90)
DEAD_AFTER: Final = timedelta(seconds=300)


def after_heartbeat(status: Status, score: float) -> Status:
    """The state of a node that was heard with this score, 0..100.

    One whose model loads becomes active once its engine runs; one that leaves stays on its way.
    """
    if status == "initializing":
        return "active" if score > ENGINE_SCORE else status
    if status not in SERVING:
        return status
    if score < UNHEALTHY_BELOW:
        return "unhealthy"
    return "degraded" if score < DEGRADED_BELOW else "active"


def after_silence(status: Status, silence: timedelta) -> Status:
    """The state of a node that has not been heard for so long.

    Silence never makes a node better: one that is unhealthy for its score stays so. One that drains
    keeps draining until it counts as dead.
    """
    if status not in HEARD or silence <= SUSPECT_AFTER:
        return status
    if silence > DEAD_AFTER:
        return "dead"
    if status == "draining":
        return status
    reached: Status = "unhealthy" if silence > UNHEALTHY_AFTER else "suspect"
    return status if status == "unhealthy" else reached


def after_registration(
    known: Status | None, wanted: Status, termination_at: datetime | None, now: datetime
) -> Status:
    """The state of a node that registers, known before or not.

    One that is being ended stays so, and one that its cloud takes back keeps draining until then.
    """
    if known == "terminating":
        return known
    if known == "draining" and termination_at is not None and termination_at > now:
        return known
    return wanted


def worse(before: Status, after: Status) -> bool:
    """Whether a node's health has become worse; False where a state says nothing about it."""
    if before not in _HEALTH or after not in _HEALTH:
        return after == "dead"
    return _HEALTH.index(after) > _HEALTH.index(before)
