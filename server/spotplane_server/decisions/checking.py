"""What an engine may answer; whatever else it says counts as its failure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, get_args

from spotplane_server.decisions import places
from spotplane_server.decisions.engine import Action, Decision, ReasonClass, Snapshot

MAX_REASONING: Final = 2000
MAX_SCORES: Final = 256
# A few numbers for each pool of a type.
MAX_MEMORY: Final = 512
MAX_KEY: Final = 128


class EngineFault(Exception):
    """An engine raised, was late, or answered what makes no sense."""


def checked(answer: object, snapshot: Snapshot) -> Decision:
    """An engine's answer, once it is known to make sense for what was asked.

    Raises:
        EngineFault: Says what is wrong with it.
    """
    if not isinstance(answer, Decision):
        raise EngineFault(f"answered {type(answer).__name__}, not a Decision")
    if answer.action not in get_args(Action):
        raise EngineFault(f"unknown decision {str(answer.action)[:40]!r}")
    if answer.reason_class is not None and answer.reason_class not in get_args(ReasonClass):
        raise EngineFault(f"unknown reason_class {str(answer.reason_class)[:40]!r}")
    _ratio(answer.confidence, "confidence")
    _ratio(answer.risk_score, "risk_score")
    _number(answer.expected_savings, "expected_savings")
    reasoning: object = answer.reasoning
    if not isinstance(reasoning, str) or len(reasoning) > MAX_REASONING or "\x00" in reasoning:
        raise EngineFault(f"reasoning must be a text of at most {MAX_REASONING} characters")
    _numbers(answer.scores, "scores", MAX_SCORES)
    _numbers(answer.memory, "memory", MAX_MEMORY)
    _target(answer, snapshot)
    return answer


def _target(answer: Decision, snapshot: Snapshot) -> None:
    here = snapshot.pool_id if snapshot.mode == "spot" else None
    known = {pool.id for pool in snapshot.pools}
    standbys = known | {None, places.ON_DEMAND, snapshot.standby_pool_id}
    if answer.standby not in standbys:
        raise EngineFault("the standby's pool was not among those asked about")
    if answer.action == "stay":
        if (answer.target_mode, answer.target_pool_id) != (snapshot.mode, here):
            raise EngineFault("stays, but names another place")
        return
    if answer.target_mode == "spot":
        if answer.target_pool_id not in known:
            raise EngineFault("the target pool was not among those asked about")
        target = next(pool for pool in snapshot.pools if pool.id == answer.target_pool_id)
        if target.price is None:
            raise EngineFault("the target pool has no fresh price")
    elif answer.target_mode != "ondemand":
        raise EngineFault(f"unknown target_mode {str(answer.target_mode)[:40]!r}")
    elif answer.target_pool_id is not None:
        raise EngineFault("on demand has no pool")
    same = answer.target_mode == snapshot.mode and answer.target_pool_id == here
    # With nothing serving, the same pool means a new instance in it.
    if same and snapshot.serving:
        raise EngineFault("switches to where the service is")


def _ratio(value: object, name: str) -> None:
    if not 0 <= _number(value, name) <= 1:
        raise EngineFault(f"{name} must be between 0 and 1")


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise EngineFault(f"{name} must be a finite number")
    return float(value)


def _numbers(values: object, name: str, most: int) -> None:
    if not isinstance(values, Mapping) or len(values) > most:
        raise EngineFault(f"{name} must be at most {most} numbers by name")
    for key, value in values.items():
        if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY or "\x00" in key:
            raise EngineFault(f"{name} must have names of 1 to {MAX_KEY} characters")
        _number(value, f"{name}.{key}")
