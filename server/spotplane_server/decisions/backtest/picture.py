"""Cost against availability, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spotplane_server.decisions.backtest.comparison import Comparison
from spotplane_server.decisions.backtest.recording import NANO

# Without downtime there are infinitely many nines; they are drawn here.
_NO_DOWNTIME: Final = 5.0
_MOST: Final = 4.6
_LEAST: Final = 0.3
_WIDTH: Final = 1.18
# Where a name may stand: right or left of its point, and so many lines above it.
_SIDES: Final = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (1, -2), (1, 2))
_LABELS: Final = {1.0: "90 %", 2.0: "99 %", 3.0: "99.9 %", 4.0: "99.99 %", _NO_DOWNTIME: "100 %"}
# What the built-in hedging engine is meant to reach: availability, and multiple of the optimum.
_AIM: Final = (0.9995, 1.6)


@dataclass(frozen=True, slots=True)
class _Point:
    label: str
    cost: float
    availability: float
    colour: str
    marker: str


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture; the ending of ``path`` says in which format.

    Raises:
        ValueError: No picture can be written in that format.
        OSError: It cannot be written there.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    points = _points(comparison)
    least = comparison.result.optimum_cost_share
    _draw_aim(axes, least)
    for point in points:
        axes.plot(
            point.cost,
            nines(point.availability),
            marker=point.marker,
            markersize=13 if point.marker == "*" else 8,
            color=point.colour,
            linestyle="none",
        )
    _label(axes, points)
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(_LEAST - 0.2, _NO_DOWNTIME + 0.35)
    axes.set_yticks(list(_LABELS), list(_LABELS.values()))
    axes.set_xlabel("cost, share of always on-demand")
    axes.set_ylabel("availability, share of seconds served")
    price = comparison.rules.on_demand / NANO
    axes.set_title(f"{comparison.result.market}, on-demand {price:g} $/h", fontsize=11)
    axes.grid(visible=True, alpha=0.25)
    figure.savefig(path, dpi=110)


def nines(availability: float) -> float:
    """Where an availability is drawn: 0.99 at 2, 0.999 at 3, without downtime at 5."""
    if availability >= 1:
        return _NO_DOWNTIME
    return min(_MOST, max(_LEAST, -math.log10(1 - availability)))


def _points(comparison: Comparison) -> list[_Point]:
    result = comparison.result
    return [
        _Point("optimum (omniscient)", result.optimum_cost_share, 1.0, "tab:green", "D"),
        _Point(result.engine, result.cost_share, result.availability, "tab:red", "*"),
        *(
            _Point(one.engine, one.cost_share, one.availability, "tab:blue", "o")
            for one in comparison.baselines
        ),
    ]


def _draw_aim(axes: Axes, least: float) -> None:
    floor = nines(_AIM[0])
    axes.fill_between(
        [0, least * _AIM[1]], floor, _NO_DOWNTIME + 0.35, color="tab:green", alpha=0.08, linewidth=0
    )
    axes.text(
        0.008,
        floor + 0.06,
        f"aim: {_AIM[0]:.2%} at {_AIM[1]:g} × the optimum",
        fontsize=8,
        color="darkgreen",
    )


def _label(axes: Axes, points: Sequence[_Point]) -> None:
    """Write names beside points, where neither another name nor a point is in the way."""
    taken = [_Box.around(point) for point in points]
    for point in points:
        text = f"{point.label}, {point.availability:.2%}"
        boxes = [_Box.beside(point, text, side) for side in _SIDES]
        index = next((n for n, box in enumerate(boxes) if box.is_free(taken)), 0)
        taken.append(boxes[index])
        right, up = _SIDES[index]
        axes.annotate(
            text,
            (point.cost, nines(point.availability)),
            xytext=(9 * right, 13 * up - 3),
            textcoords="offset points",
            ha="left" if right > 0 else "right",
            fontsize=8,
        )


@dataclass(frozen=True, slots=True)
class _Box:
    """A part of the picture, in its axes' units."""

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def around(cls, point: _Point) -> _Box:
        x, y = point.cost, nines(point.availability)
        return cls(x - 0.012, x + 0.012, y - 0.08, y + 0.08)

    @classmethod
    def beside(cls, point: _Point, text: str, side: tuple[int, int]) -> _Box:
        """Around a text to the right or left of a point, and so many lines above it."""
        right, up = side
        near = point.cost + right * 0.02
        far = near + right * 0.0105 * len(text)
        middle = nines(point.availability) + up * 0.22
        return cls(min(near, far), max(near, far), middle - 0.08, middle + 0.08)

    def is_free(self, taken: Sequence[_Box]) -> bool:
        """Whether it is inside the picture and overlaps nothing."""
        return 0 <= self.left < self.right <= _WIDTH and not any(
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
            for other in taken
        )
