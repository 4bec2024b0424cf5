"""How numbers are judged."""

from __future__ import annotations

import pytest
from spotplane_bench.main import app
from spotplane_bench.results import Aim, Row, quantile
from typer.testing import CliRunner


def test_an_aim_is_of_the_ratio_where_there_is_one() -> None:
    """A rate of half the yardstick meets an aim of at least half, whatever the rate is."""
    row = Row("reads", 100, "calls/s", yardstick=200, ratio=0.5, aim=Aim(0.5, at_most=False))
    assert row.met


def test_an_aim_without_ratio_is_of_the_value() -> None:
    """A time above its aim misses it."""
    assert Row("p99", 51, "ms", yardstick=1, aim=Aim(50, at_most=True)).met is False


def test_a_row_without_aim_is_neither_met_nor_missed() -> None:
    """Numbers that are only shown are not judged."""
    assert Row("p50", 51, "ms").met is None


def test_quantile_is_a_measured_value() -> None:
    """Nearest rank: nothing is made up between two values."""
    values = [float(n) for n in range(100)]
    assert (quantile(values, 0.5), quantile(values, 0.99)) == (50.0, 99.0)
    assert quantile([7.0], 0.99) == 7.0


def test_quantile_of_nothing_is_refused() -> None:
    """A benchmark that measured nothing must not report a number."""
    with pytest.raises(ValueError, match="nothing"):
        quantile([], 0.5)


def test_an_unknown_benchmark_is_refused_by_name() -> None:
    """Nothing is started for a mistyped name."""
    done = CliRunner().invoke(app, ["--only", "unray"])
    assert done.exit_code == 2
    assert "unray" in done.output
