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


# What a launch goes through, and how far each stage is, in percent.
PROGRESS: Final[dict[str, int]] = {
    "queued": 0,
    "provisioning": 10,
    "instance_ready": 40,
    "installing": 50,
    "model_loading": 60,
    "health_check": 90,
    "active": 100,
}
# What the one who launches may say; the rest is the node's to show.
REPORTED_PHASES: Final = ("provisioning", "instance_ready", "installing")
LAUNCHABLE: Final = tuple(provider for provider in PROVIDERS if provider != "on-prem")

LEASE: Final = timedelta(seconds=30)
# A call to a cloud may go on for so long after its caller's lease has run out.
CALL_WITHIN: Final = timedelta(minutes=2)
LAUNCH_WITHIN: Final = timedelta(minutes=30)
TERMINATE_WITHIN: Final = timedelta(hours=24)
MAX_LAUNCH_FAILURES: Final = 5
_MAX_PAUSE_SECONDS: Final = 60
# As the clouds announce it: AWS two minutes before, the others half a minute.
_NOTICE_SECONDS: Final = {"aws": 120}
_DEFAULT_NOTICE_SECONDS: Final = 30


def launch_stage(status: Status) -> str:
    """The stage of a launch whose node has registered in this state."""
    return "active" if status in SERVING else "model_loading"


def pause(failures: int) -> timedelta:
    """How long to wait after so many failures, >= 1: 2, 4, 8 … 60 s."""
    return timedelta(seconds=min(2 ** min(failures, 10), _MAX_PAUSE_SECONDS))


def gives_up(kind: str, failures: int, *, retryable: bool) -> bool:
    """Whether an operation that has failed so often is over.

    A launch is tried a few times. An end is tried until its deadline: the machine costs money.
    """
    return kind == "launch" and (not retryable or failures >= MAX_LAUNCH_FAILURES)


def notice(provider: str) -> timedelta:
    """How long before its end a cloud announces it."""
    return timedelta(seconds=_NOTICE_SECONDS.get(provider, _DEFAULT_NOTICE_SECONDS))
