"""Results: numbers beside their yardsticks and aims, as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Aim:
    """What a number should be: at most or at least ``value``."""

    value: float
    at_most: bool

    def met(self, number: float) -> bool:
        """Whether a number is as it should be."""
        return number <= self.value if self.at_most else number >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One number.

    Attributes:
        name: What was measured.
        value: Ours.
        unit: Of ours and of the yardstick.
        yardstick: The same of something bare, measured in the same run.
        ratio: Ours by the yardstick, from alternating rounds where it matters.
        aim: Of the ratio where there is one, else of the value.
    """

    name: str
    value: float
    unit: str
    yardstick: float | None = None
    ratio: float | None = None
    aim: Aim | None = None

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None without one."""
        if self.aim is None:
            return None
        return self.aim.met(self.value if self.ratio is None else self.ratio)


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found.

    Attributes:
        name: Of the benchmark.
        yardstick: What the yardstick is.
        rows: The numbers.
        details: How it was measured, and what else was seen.
    """

    name: str
    yardstick: str
    rows: Sequence[Row]
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return {
            "name": self.name,
            "yardstick": self.yardstick,
            "rows": [
                asdict(row) | {"aim": str(row.aim) if row.aim else None, "met": row.met}
                for row in self.rows
            ],
            "details": self.details,
        }


def show(result: Result, console: Console) -> None:
    """Print one result as a table."""
    table = Table(title=result.name, caption=f"Yardstick: {result.yardstick}")
    table.add_column("what")
    for column in ("ours", "yardstick", "ratio", "aim"):
        table.add_column(column, justify="right")
    for row in result.rows:
        table.add_row(
            row.name,
            f"{_number(row.value)} {row.unit}",
            "" if row.yardstick is None else f"{_number(row.yardstick)} {row.unit}",
            "" if row.ratio is None else f"{row.ratio:.3g}",
            "" if row.aim is None else f"{row.aim} {'met' if row.met else 'MISSED'}",
        )
    console.print(table)


def save(path: Path, machine: dict[str, Any], results: Sequence[Result]) -> None:
    """Write the result file."""
    document = {"machine": machine, "results": [result.as_json() for result in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def quantile(values: Sequence[float], q: float) -> float:
    """The value that a share ``q`` of the values does not exceed; nearest rank.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(statistics.median(values))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
