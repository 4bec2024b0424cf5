"""Draws the faults of a campaign from its seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "kill_server",
    "pause_server",
    "restart_server_with_other_clock",
    "restart_bridge",
    "restart_database",
    "cut_database",
    "silence_database",
    "delay_database",
    "lose_commits",
    "cut_agents",
    "silence_agents",
    "restart_agents",
]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
# How often each is drawn beside the others. What clients see as an unknown outcome comes most
# often, and what stops everything for seconds least often.
_WEIGHTS: Final[dict[Kind, int]] = dict.fromkeys(KINDS, 2) | {
    "lose_commits": 4,
    "restart_database": 1,
    "restart_server_with_other_clock": 1,
}
# Seconds that a fault lasts.
_LASTS: Final[dict[Kind, tuple[float, float]]] = {
    "kill_server": (0.2, 2.0),
    "pause_server": (1.0, 5.0),
    "restart_database": (0.2, 2.0),
    "silence_database": (1.0, 5.0),
    "delay_database": (1.0, 4.0),
    "lose_commits": (0.5, 2.0),
    "silence_agents": (1.0, 4.0),
}
# Seconds between faults.
_PAUSE: Final = (0.2, 1.5)
# Largest error of a server's clock, in seconds; beyond 5 s it runs no jobs.
_CLOCK_SECONDS: Final = 90


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: What happens.
        server: To which of the two servers, its database connections or its agents.
        seconds: How long it lasts.
        pause: Seconds until the next.
        number: Of lost answers, agents, or seconds of a clock's error.
    """

    kind: Kind
    server: int
    seconds: float
    pause: float
    number: int


def draw(seed: int) -> Iterator[Fault]:
    """The faults of a seed, without end; the first ones are of every kind."""
    source = random.Random(seed)
    first = list(KINDS)
    source.shuffle(first)
    for kind in first:
        yield _fault(source, kind)
    while True:
        yield _fault(source, source.choices(KINDS, [_WEIGHTS[kind] for kind in KINDS])[0])


def _fault(source: random.Random, kind: Kind) -> Fault:
    number = source.randint(1, 4)
    if kind == "restart_server_with_other_clock":
        number = source.randint(-_CLOCK_SECONDS, _CLOCK_SECONDS)
    return Fault(
        kind,
        source.randrange(2),
        round(source.uniform(*_LASTS.get(kind, (0.0, 0.0))), 2),
        round(source.uniform(*_PAUSE), 2),
        number,
    )
