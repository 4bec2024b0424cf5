"""The notation finds every fault, and no other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.notation import faults, parse

NOTED = parse("id:u, n:n, i:i?, b:b, at:t, day:d, names[], pool{id, az}?, items[]{x:i}, free{}")
GOOD: dict[str, Any] = {
    "id": "00000000-0000-4000-8000-000000000000",
    "n": 1.5,
    "i": None,
    "b": False,
    "at": "2026-01-01T00:00:00Z",
    "day": "2026-01-01",
    "names": ["a"],
    "pool": {"id": "p", "az": "a"},
    "items": [{"x": 1}],
    "free": {"whatever": 1},
}


def test_value_as_noted_has_no_faults() -> None:
    assert faults(GOOD, NOTED) == []
    assert faults(GOOD | {"pool": None, "items": []}, NOTED) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"id": "x"}, ".id is not of type u: 'x'"),
        ({"n": "1.5"}, ".n is not of type n: '1.5'"),
        ({"i": True}, ".i is not of type i: True"),
        ({"b": 1}, ".b is not of type b: 1"),
        ({"at": "2026-01-01T00:00:00"}, ".at is not of type t: '2026-01-01T00:00:00'"),
        ({"day": None}, ".day is null"),
        ({"names": "a"}, ".names is no list"),
        ({"pool": {"id": "p"}}, ".pool.az is missing"),
        ({"items": [{"x": 1.5}]}, ".items[0].x is not of type i: 1.5"),
        ({"more": 1}, ".more is not documented"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_fault_is_named_by_its_path(change: dict[str, Any], fault: str) -> None:
    assert faults(GOOD | change, NOTED) == [fault]
