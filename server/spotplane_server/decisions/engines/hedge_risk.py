"""What a pool's past tells of its next loss: measured from what an engine saw, kept in its memory.

Capacity that came back a moment ago goes again soon, and capacity that has lasted lasts. Over
recorded markets of two clouds, losses per hour of capacity fall with its age ``a`` in hours about
as ``0.6 / (0.4 + a) ** 0.85``, from minutes to days, which is what spells look like whose rates
differ widely; compare Lomax, "Business Failures: Another Example of the Analysis of Failure Data",
JASA 49, 1954. That is the prior here. How much worse or better a pool is, how much of a region
falls together, and how much downtime there was are learned from each market as it goes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from spotplane_server.decisions.engine import PoolView, Snapshot

# Whether two pools are of one region.
Kin: TypeAlias = Literal["near", "far"]

HAZARD: Final = 0.6
YOUTH_HOURS: Final = 0.4
DECLINE: Final = 0.85
# Losses that the prior weighs as much as: a pool's factor moves halfway after so many.
PRIOR_LOSSES: Final = 3.0
# What was seen a week ago counts half.
HALF_LIFE_SECONDS: Final = 7 * 86_400.0
# How much more dangerous a region is that lacks all capacity; in proportion when it lacks a part.
STRAIN: Final = 0.6
# How much more dangerous a region is just after a loss; it fades by e in an hour.
AFTERSHOCK: Final = 0.6
# Chance that another pool's capacity ends within minutes of one's loss, before anything was seen;
# and how many pairs that guess weighs as much as.
PRIOR_TOGETHER: Final[dict[Kin, float]] = {"near": 0.15, "far": 0.02}
PRIOR_PAIRS: Final = 30.0
# Losses this close are one: a notice tells of its own so long before the others show.
TOGETHER_SECONDS: Final = 300.0
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool as the market's past shows it.

    Attributes:
        view: What the snapshot says of it.
        region: Pools of one region tend to fail together.
        hazard: Losses an hour to be expected of an instance there.
    """

    view: PoolView
    region: str
    hazard: float


@dataclass(frozen=True, slots=True)
class Market:
    """All pools, and what is remembered of them and of the service.

    Attributes:
        pools: By id.
        together: Chance that a second pool is lost with a first.
        down_seconds: For how long the service was down, of ``elapsed_seconds``.
        memory: For the next decision.
    """

    pools: Mapping[str, Pool]
    together: Mapping[Kin, float]
    down_seconds: float
    elapsed_seconds: float
    memory: dict[str, float]

    def together_with(self, one: Pool, other: Pool) -> float:
        """Chance that ``other`` is lost as ``one`` is."""
        return self.together["near" if one.region == other.region else "far"]


def observe(snapshot: Snapshot) -> Market:
    """Take in what the snapshot shows beyond what is remembered, and measure every pool."""
    memory = _of_pools(snapshot)
    now = snapshot.now.timestamp()
    before = memory.get("at", now)
    _remember_service(memory, snapshot, now - before, now)
    regions = {pool.id: region_of(pool.az) for pool in snapshot.pools}
    strain = _strain(snapshot.pools, regions)
    lost = [
        pool.id
        for pool in snapshot.pools
        if _remember(memory, pool, strain[regions[pool.id]], before, now)
    ]
    if lost:
        _remember_together(memory, lost, regions, now)
    danger = _danger(memory, strain, regions, now)
    pools = {}
    for view in snapshot.pools:
        factor = _factor(memory[f"{view.id} losses"], memory[f"{view.id} expected"])
        age = (now - (memory[f"{view.id} since"] or now)) / _HOUR
        region = regions[view.id]
        hazard = factor * danger[region] * HAZARD / (YOUTH_HOURS + age) ** DECLINE
        pools[view.id] = Pool(view, region, hazard)
    _fade(memory, now - before)
    return Market(
        pools=pools,
        together={kin: _together(memory, kin) for kin in PRIOR_TOGETHER},
        down_seconds=memory["down_seconds"],
        elapsed_seconds=memory["elapsed_seconds"],
        memory=memory,
    )


def region_of(zone: str) -> str:
    """The region of a zone: `us-east-1a` and `us-central1-a` lose their last part."""
    return re.sub(r"-?[a-z]$", "", zone)


def _of_pools(snapshot: Snapshot) -> dict[str, float]:
    """What is remembered, without the pools that are no more."""
    known = {pool.id for pool in snapshot.pools} | set(PRIOR_TOGETHER)
    return {
        key: value
        for key, value in snapshot.memory.items()
        if " " not in key or key.rpartition(" ")[0] in known
    }


def _remember_service(
    memory: dict[str, float], snapshot: Snapshot, passed: float, now: float
) -> None:
    """Count for how long the service was there, and for how long it was not."""
    down = passed if memory.get("down") else 0.0
    memory["down_seconds"] = memory.get("down_seconds", 0.0) + down
    memory["elapsed_seconds"] = memory.get("elapsed_seconds", 0.0) + passed
    memory["down"] = float(not snapshot.serving)
    memory["at"] = now


def _strain(pools: Sequence[PoolView], regions: Mapping[str, str]) -> dict[str, float]:
    """By region, how much more dangerous it is for the capacity that it lacks."""
    every: dict[str, list[bool]] = {}
    for pool in pools:
        every.setdefault(regions[pool.id], []).append(pool.available)
    return {
        region: 1.0 + STRAIN * (1.0 - sum(states) / len(states)) for region, states in every.items()
    }


def _danger(
    memory: Mapping[str, float],
    strain: Mapping[str, float],
    regions: Mapping[str, str],
    now: float,
) -> dict[str, float]:
    """By region, its strain, and what its last loss adds to it for a while."""
    last = dict.fromkeys(strain, -math.inf)
    for pool, region in regions.items():
        last[region] = max(last[region], memory.get(f"{pool} lost", -math.inf))
    return {
        region: strain[region] * (1.0 + AFTERSHOCK * math.exp((at - now) / _HOUR))
        for region, at in last.items()
    }


def _remember(
    memory: dict[str, float], pool: PoolView, strain: float, before: float, now: float
) -> bool:
    """Count what the pool went through since the last look; True when capacity was lost."""
    since_key, losses, expected = f"{pool.id} since", f"{pool.id} losses", f"{pool.id} expected"
    last = pool.interruptions[-1].timestamp() if pool.interruptions else None
    if since_key not in memory:
        _begin(memory, pool, last, now)
        return False
    since = memory[since_key]
    lost = bool(since) and (not pool.available or (last is not None and last > before))
    if since:
        age, older = max(0.0, before - since), now - since
        memory[expected] += strain * _expected(age / _HOUR, older / _HOUR)
    if lost:
        memory[losses] += 1.0
        memory[f"{pool.id} lost"] = now
    if not pool.available:
        memory[since_key] = 0.0
    elif lost or not since:
        memory[since_key] = now
    return lost


def _begin(memory: dict[str, float], pool: PoolView, last: float | None, now: float) -> None:
    """Take a pool that is seen for the first time by the interruptions that are known of it.

    For how long there was capacity between them is not known, so they say how old its capacity is,
    and leave the pool's factor to what will be seen.
    """
    memory[f"{pool.id} losses"] = 0.0
    memory[f"{pool.id} expected"] = 0.0
    memory[f"{pool.id} since"] = (now if last is None else last) if pool.available else 0.0


def _remember_together(
    memory: dict[str, float], lost: Sequence[str], regions: Mapping[str, str], now: float
) -> None:
    """Count the pairs of which one was lost, and those of which both were."""
    for one in lost:
        for other, region in regions.items():
            if other == one:
                continue
            kin = "near" if region == regions[one] else "far"
            if other in lost:
                both = 1.0
            elif now - memory.get(f"{other} lost", -math.inf) <= TOGETHER_SECONDS:
                # The other's loss was counted as one of a pair while this one still stood.
                both = 2.0
            elif memory[f"{other} since"]:
                both = 0.0
            else:
                continue
            memory[f"{kin} pairs"] = memory.get(f"{kin} pairs", 0.0) + 1.0
            memory[f"{kin} both"] = memory.get(f"{kin} both", 0.0) + both


def _expected(age_hours: float, older_hours: float) -> float:
    """Losses that the prior expects from one age to another: the integral of its hazard."""
    rest = 1.0 - DECLINE
    grown = (YOUTH_HOURS + older_hours) ** rest - (YOUTH_HOURS + age_hours) ** rest
    expected: float = HAZARD * grown / rest
    return expected


def _factor(losses: float, expected: float) -> float:
    """How many times the prior's losses a pool has; Gamma-Poisson shrinkage to once."""
    return (losses + PRIOR_LOSSES) / (expected + PRIOR_LOSSES)


def _together(memory: Mapping[str, float], kin: Kin) -> float:
    both = memory.get(f"{kin} both", 0.0) + PRIOR_PAIRS * PRIOR_TOGETHER[kin]
    return min(1.0, both / (memory.get(f"{kin} pairs", 0.0) + PRIOR_PAIRS))


def _fade(memory: dict[str, float], passed_seconds: float) -> None:
    """Let what was counted of pools count less with time."""
    fade = 0.5 ** (passed_seconds / HALF_LIFE_SECONDS)
    for key in memory:
        if key.endswith((" losses", " expected")):
            memory[key] *= fade
