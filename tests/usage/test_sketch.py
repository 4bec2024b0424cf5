"""Sketches: within one percent, and mergeable in any order."""

from __future__ import annotations

import math
import struct
from collections import Counter
from decimal import Decimal

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.usage import sketch

LATENCIES = st.lists(st.integers(0, sketch.MAX_LATENCY_MS), min_size=1, max_size=300)
QUANTILES = (0.0, 0.5, 0.95, 0.99, 1.0)


def counts(latencies: list[int]) -> dict[int, int]:
    return dict(Counter(map(sketch.bucket, latencies)))


def dense(latencies: list[int]) -> sketch.Counts:
    found = sketch.empty()
    for number, count in counts(latencies).items():
        found[number] = count
    return found


def interpolated(latencies: list[int], quantile: float) -> float:
    ordered = sorted(latencies)
    rank = quantile * (len(ordered) - 1)
    low, high = math.floor(rank), math.ceil(rank)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


@given(st.integers(1, sketch.MAX_LATENCY_MS))
def test_estimate_is_within_one_percent(latency: int) -> None:
    """The accuracy promised, for every latency."""
    estimate = sketch.estimate(sketch.bucket(latency))
    assert abs(estimate - latency) <= latency * sketch.ALPHA * (1 + 1e-9)


@given(LATENCIES)
def test_percentiles_are_within_one_percent(latencies: list[int]) -> None:
    """So is what is interpolated between two of them."""
    (found,) = sketch.percentiles([dense(latencies)], QUANTILES)
    for quantile, answer in zip(QUANTILES, found, strict=True):
        exact = interpolated(latencies, quantile)
        assert abs(answer - exact) <= exact * sketch.ALPHA * (1 + 1e-9)


def test_many_are_put_where_each_would_be() -> None:
    """For every latency next to a bucket's border, where rounding could tell them apart."""
    borders = [int(sketch.GAMMA**power) for power in range(sketch.bucket(sketch.MAX_LATENCY_MS))]
    near = sorted({max(0, at + by) for at in borders for by in (-1, 0, 1)})
    assert sketch.buckets(np.array(near)).tolist() == [sketch.bucket(at) for at in near]


def test_zero_has_a_bucket_of_its_own() -> None:
    """0 ms is exact, 1 ms is the first bucket above it, an hour the last."""
    assert sketch.estimate(sketch.bucket(0)) == 0
    assert sketch.bucket(1) == 1
    assert sketch.bucket(sketch.MAX_LATENCY_MS) <= 757


def test_worked_example() -> None:
    """101..300 ms: p95 is 290.05, and the sketch says 290.07."""
    latencies = list(range(101, 301))
    assert math.isclose(interpolated(latencies, 0.95), 290.05)
    assert round(sketch.percentiles([dense(latencies)], [0.95])[0][0], 2) == 290.07


def test_no_latencies_have_percentiles_of_zero() -> None:
    """Nothing is divided by nothing."""
    assert sketch.percentiles([sketch.empty()], QUANTILES) == [[0.0] * len(QUANTILES)]
    assert sketch.percentiles([], QUANTILES) == []


@given(st.lists(st.lists(st.integers(0, sketch.MAX_LATENCY_MS), max_size=20), max_size=8))
def test_several_have_the_percentiles_of_each(several: list[list[int]]) -> None:
    """Empty ones among them, at the end too."""
    sketches = [dense(latencies) for latencies in several]
    one_by_one = [sketch.percentiles([one], QUANTILES)[0] for one in sketches]
    assert sketch.percentiles(sketches, QUANTILES) == one_by_one


@given(
    st.lists(st.lists(st.integers(0, sketch.MAX_LATENCY_MS), max_size=30), min_size=1, max_size=8)
)
def test_numerals_count_in_twelve_digits_a_bucket(several: list[list[int]]) -> None:
    """Each sketch is the number that it stands for, an empty one 0."""
    row = np.repeat(np.arange(len(several)), [len(counts(of)) for of in several])
    pairs = [sorted(counts(latencies).items()) for latencies in several]
    number, count = (np.array([pair[at] for of in pairs for pair in of], np.int64) for at in (0, 1))

    numerals = sketch.to_numerals(row, number, count, len(several))

    assert [int(Decimal(numeral)) for numeral in numerals] == [
        sum(count * 10 ** (12 * number) for number, count in counts(latencies).items())
        for latencies in several
    ]


@given(st.lists(st.lists(st.integers(0, sketch.MAX_LATENCY_MS), max_size=30), max_size=8))
def test_numbers_are_read_as_postgresql_sends_them(several: list[list[int]]) -> None:
    """To the base of 10,000, without the zeros at either end."""
    read = sketch.from_numerics([sent(latencies) for latencies in several])
    assert [one.tolist() for one in read] == [dense(latencies).tolist() for latencies in several]


def sent(latencies: list[int]) -> bytes:
    number = sum(count * 10 ** (12 * at) for at, count in counts(latencies).items())
    digits: list[int] = []
    while number:
        number, digit = divmod(number, 10_000)
        digits.insert(0, digit)
    weight = max(len(digits) - 1, 0)
    while digits and digits[-1] == 0:
        digits.pop()
    return struct.pack(f">hhHH{len(digits)}h", len(digits), weight, 0, 0, *digits)
