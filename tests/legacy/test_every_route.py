"""Every legacy route is served, covered by tests, and closed to callers without permission."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from spotplane_bridge.legacy import registry

from tests.legacy.contract import PROMISED, Promised, shape
from tests.legacy.field import ADMIN, ANONYMOUS, Field
from tests.support.plane import Tenant


def _numbers(text: str) -> frozenset[str]:
    return frozenset(text.split(" "))


# Served by the process itself, and without credentials.
OPERATIONS: Final = {"X1", "X2", "X3"}
# Leases commands although it reads.
LEASING: Final = {"53", "X11"}
STREAMS: Final = {"72", "X22"}

# Routes that are not implemented yet. These lists only shrink, and are empty in a release.
NOT_SERVED: Final[frozenset[str]] = frozenset()
NOT_PROVEN: Final[frozenset[tuple[str, str]]] = frozenset()

# Routes without input that could be invalid: neither a body nor a typed parameter.
WITHOUT_INPUT: Final = _numbers(
    "1 2 5 9 11 12 13 16 20 21 22 23 25 26 28 31 33 36 44 45 51 52 60 61 62 63 65 66 68 70 71 74 75"
    " X4 X6 X9 X20 X21 X23"
)
# Routes that name no object of a tenant.
WITHOUT_OWNER: Final = frozenset(route.id for route in PROMISED if route.who in "PAC")

SERVED: Final = [
    route for route in PROMISED if route.id not in OPERATIONS and route.id not in NOT_SERVED
]


def test_every_promised_route_is_declared() -> None:
    declared = {route.id: (route.method, shape(route.template)) for route in registry.load()}
    promised = {route.id: route.shape for route in PROMISED if route.id not in OPERATIONS}
    assert {number for number in promised if number not in declared} == NOT_SERVED
    assert {n: at for n, at in declared.items() if promised.get(n) != at} == {}


def test_every_route_is_proven() -> None:
    wanted = {(route.id, "good") for route in SERVED}
    wanted |= {(route.id, "bad") for route in SERVED if route.id not in WITHOUT_INPUT}
    wanted |= {(route.id, "foreign") for route in SERVED if route.id not in WITHOUT_OWNER}
    lacking = wanted - set(_covered())
    assert sorted(lacking) == sorted(NOT_PROVEN)


def _covered() -> Iterator[tuple[str, str]]:
    """Return the routes by their `covers` marks, read from the source of the tests."""
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "covers":
                routes, kind = (ast.literal_eval(argument) for argument in node.args)
                yield from ((number, kind) for number in routes.split())


async def test_no_route_opens_without_a_token(field: Field) -> None:
    for route in SERVED:
        if route.path.startswith("/api/"):
            reply = await field.refused(
                "UNAUTHORIZED", route.method, route.at(), status=401, by=ANONYMOUS
            )
            assert reply["error"] == "Missing client token", route


async def test_administrators_routes_are_closed_to_tenants(field: Field) -> None:
    for route in SERVED:
        if route.who == "A":
            await field.refused("FORBIDDEN", route.method, route.at(), status=403)


async def test_no_tenant_reaches_into_another(field: Field) -> None:
    for route in SERVED:
        if "{client_id}" in route.path and route.who == "T":
            path = route.at(client_id=field.tenant.id)
            status = await _status(field, route, path, field.foreign)
            # A body may be rejected before its object is looked up; it must not be accepted.
            assert status == 404 or (status == 400 and route.method != "GET"), (route, status)


async def test_unknown_agents_and_instances_are_not_found(field: Field) -> None:
    for route in SERVED:
        if route.who in "OG" and "{" in route.path:
            for by in (field.tenant, ADMIN):
                status = await _status(field, route, route.at(), by)
                assert status == 404 or (status == 400 and route.method != "GET"), (route, status)


@pytest.mark.parametrize("role", ["read_only", "developer"])
async def test_keys_that_only_read_write_nothing(field: Field, role: str) -> None:
    key = (await field.plane.key(field.tenant.id, role=role)).key
    for route in SERVED:
        if route.who not in "TOG" or route.id in STREAMS:
            continue
        path = route.at(client_id=field.tenant.id)
        status = await _status(field, route, path, key)
        is_read = route.method == "GET" and route.id not in LEASING
        assert (status == 403) != is_read, (route, status)


async def test_agents_keys_write_what_agents_write(field: Field) -> None:
    key = (await field.plane.key(field.tenant.id, role="agent")).key
    for route in SERVED:
        if route.who not in "TOG" or route.id in STREAMS:
            continue
        status = await _status(field, route, route.at(client_id=field.tenant.id), key)
        may = route.who == "G" or route.method == "GET"
        assert (status == 403) != may, (route, status)


async def test_an_administrator_is_kept_out_nowhere(field: Field) -> None:
    for route in SERVED:
        if route.id not in STREAMS:
            path = route.at(client_id=field.tenant.id)
            status = await _status(field, route, path, ADMIN)
            assert status not in {401, 403, 500, 501}, (route, status)


async def _status(field: Field, route: Promised, path: str, by: Tenant | str) -> int:
    async with field.send(route.method, path, by=by) as response:
        status: int = response.status
        return status
