"""Every annotated route through the bridge and through Envoy: same status, headers, JSON.

A read goes through both frontends into one world and must agree in everything but the correlation
id.
A write goes through each frontend into its own world, and ids, times and names are masked.
"""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
from spotplane_bridge.routes import Route, load_routes

from tests.parity.cases import CASES, NOBODYS_ID, Case
from tests.parity.conftest import Doors, Response
from tests.parity.normal import masked, normal_form
from tests.parity.worlds import World
from tests.support.atomicity import INDEPENDENT

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES: Final = load_routes()
_VARIABLE: Final = re.compile(r"\{(\w+)[^}]*\}")
# Present on both or on neither, with the same value.
_HEADERS: Final = (
    "x-total-count",
    "x-ratelimit-limit",
    "cache-control",
    "strict-transport-security",
    "x-frame-options",
    "x-content-type-options",
    "content-security-policy",
    "referrer-policy",
    "permissions-policy",
    "server",
)
# A rejection by a frontend itself has its own message; the rest of the object agrees.
_OWN_WORDS: Final = ("message", "details", "suggestion")


def _name(route: Route) -> str:
    return f"{route.service}.{route.descriptor.name}"


def _id(route: Route) -> str:
    return f"{route.method} {route.template}"


each_route = pytest.mark.parametrize("route", ROUTES, ids=_id)
each_write = pytest.mark.parametrize("route", [r for r in ROUTES if r.method != "GET"], ids=_id)
each_with_path = pytest.mark.parametrize("route", [r for r in ROUTES if r.variables], ids=_id)
each_with_body = pytest.mark.parametrize("route", [r for r in ROUTES if r.body], ids=_id)


@pytest.mark.asyncio(loop_scope="function")
async def test_every_annotated_rpc_has_cases() -> None:
    """A new route without a case fails here, and so does a case without a route."""
    assert {_name(route) for route in ROUTES} == CASES.keys()


@each_route
async def test_doors_agree_on_good_and_bad_requests(route: Route, doors: Doors) -> None:
    one, other = doors.world(), doors.world()
    if route.method == "GET":
        other = one
    for case in CASES[_name(route)]:
        for world in (one, other):
            for name in case.after:
                await world.get(name)
        left = await _send(doors, "bridge", route, case, one)
        right = await _send(doors, "envoy", route, case, other)
        _agree(route, case, left, right)


@each_write
async def test_one_key_is_one_call_at_both_doors(route: Route, doors: Doors) -> None:
    world = doors.world()
    for number, case in enumerate(CASES[_name(route)]):
        if case.status >= 300:
            continue
        for name in case.after:
            await world.get(name)
        key = f"key-{number}-of-{world.mark}"
        left = await _send(doors, "bridge", route, case, world, key=key)
        right = await _send(doors, "envoy", route, case, world, key=key)

        where = (_id(route), case.rule, left.body[:500], right.body[:500])
        assert (left.status, right.status) == (case.status,) * 2, where
        assert "idempotent-replayed" not in left.headers, where
        assert right.headers["idempotent-replayed"] == "true", where
        descriptor = _response(route)
        assert normal_form(left.json, descriptor) == normal_form(right.json, descriptor), where
    assert doors.atomicity.violations().keys() <= INDEPENDENT


@each_route
@pytest.mark.parametrize("who", ["nobody", "false"])
async def test_doors_agree_on_callers_without_a_right(route: Route, doors: Doors, who: str) -> None:
    """No credentials, and false ones, are the same 401."""
    case = Case(f"{who} calls", 401, dict.fromkeys(route.variables, NOBODYS_ID))
    world = doors.world()
    left = await _send(doors, "bridge", route, case, world, who=who)
    right = await _send(doors, "envoy", route, case, world, who=who)

    _agree(route, case, left, right)


@each_with_path
@pytest.mark.parametrize(
    ("value", "status"), [("not-an-id", 400), (NOBODYS_ID, 404), ("a%2Fb", 400)]
)
async def test_doors_agree_on_ids_that_name_nothing(
    route: Route, doors: Doors, value: str, status: int
) -> None:
    """A malformed id is 400, a well-formed unknown one 404 or, for a list or a filter, empty."""
    case = Case(value, status, dict.fromkeys(route.variables, value), body=_least_body(route))
    world = doors.world()
    left = await _send(doors, "bridge", route, case, world)
    right = await _send(doors, "envoy", route, case, world)

    assert left.status in {status, 400, 404, 200}, left
    _agree(route, case, left, right, expected=left.status)


@each_route
async def test_doors_agree_on_unknown_parameters(route: Route, doors: Doors) -> None:
    path = dict.fromkeys(route.variables, NOBODYS_ID)
    case = Case("unknown parameter", 400, path, query="no_such=1", code="UNKNOWN_PARAMETER")
    world = doors.world()
    left = await _send(doors, "bridge", route, case, world, who="false")
    right = await _send(doors, "envoy", route, case, world, who="false")

    _agree(route, case, left, right, own_words=True)
    assert left.json["error"]["details"][0]["field"] == "no_such"
    assert right.json["error"]["details"][0]["field"] == "no_such"


@each_with_body
@pytest.mark.parametrize(
    ("raw", "media", "status", "code"),
    [
        (b'{"', "application/json", 400, "INVALID_JSON"),
        (b"[]", "application/json", 400, "INVALID_JSON"),
        (b"{}", "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
    ],
)
async def test_doors_agree_on_unreadable_bodies(
    route: Route, doors: Doors, raw: bytes, media: str, status: int, code: str
) -> None:
    case = Case("unreadable", status, dict.fromkeys(route.variables, NOBODYS_ID), code=code)
    world = doors.world()
    left = await _send(doors, "bridge", route, case, world, who="false", data=raw, media=media)
    right = await _send(doors, "envoy", route, case, world, who="false", data=raw, media=media)

    _agree(route, case, left, right, own_words=True)


@each_with_path
async def test_doors_agree_on_a_path_variable_in_the_query(route: Route, doors: Doors) -> None:
    name = route.variables[0]
    path = dict.fromkeys(route.variables, NOBODYS_ID)
    case = Case("variable in query", 400, path, f"{name}=x", code="UNKNOWN_PARAMETER")
    world = doors.world()
    left = await _send(doors, "bridge", route, case, world, who="false")
    right = await _send(doors, "envoy", route, case, world, who="false")

    _agree(route, case, left, right, own_words=True)


@pytest.mark.parametrize(
    "path", ["/admin/nope", "/v1/nope/x", "/admin", "/api/v1/admin/models/a/b"]
)
async def test_doors_agree_on_unknown_routes(doors: Doors, path: str) -> None:
    """404 ROUTE_NOT_FOUND with the same object."""
    left = await doors.bridge.send("GET", path)
    right = await doors.envoy.send("GET", path)

    for response in (left, right):
        assert (response.status, response.json["error"]["code"]) == (404, "ROUTE_NOT_FOUND")
    assert _without_words(left.json) == _without_words(right.json)


async def _send(
    doors: Doors,
    door: str,
    route: Route,
    case: Case,
    world: World,
    *,
    who: str | None = None,
    key: str | None = None,
    data: bytes | None = None,
    media: str = "application/json",
) -> Response:
    """Send a case to a route's path through one door."""
    values = await world.fill(dict(case.path))
    path = _VARIABLE.sub(lambda found: str(values[found[1]]), route.template)
    if case.query:
        path += f"?{await world.fill(case.query)}"
    if who is None:
        who = "key" if route.template.startswith("/v1/") else "admin"
    options: dict[str, Any] = {"headers": await world.headers(who)}
    if key is not None:
        options["headers"] |= {"Idempotency-Key": key}
    if data is not None:
        options["data"] = data
        options["headers"] |= {"content-type": media}
    elif case.body is not None:
        options["json"] = await world.fill(case.body)
    chosen = doors.bridge if door == "bridge" else doors.envoy
    return await chosen.send(route.method, path, **options)


def _agree(
    route: Route,
    case: Case,
    left: Response,
    right: Response,
    *,
    expected: int | None = None,
    own_words: bool = False,
) -> None:
    """Compare two responses: first with the case, then with each other."""
    where = (_id(route), case.rule, left.body[:500], right.body[:500])
    assert (left.status, right.status) == (expected or case.status,) * 2, where
    assert left.media_type == right.media_type, where
    reply = [{name: response.headers.get(name) for name in _HEADERS} for response in (left, right)]
    assert reply[0] == reply[1], where
    if left.media_type == "application/zip":
        assert left.body[:4] == right.body[:4] == b"PK\x03\x04", where
        return
    if left.media_type == "text/event-stream":
        assert left.body == right.body, where
    if case.code is not None:
        assert left.json["error"]["code"] == case.code, where
    forms = [_form(route, response) for response in (left, right)]
    if own_words:
        forms = [_without_words(form) for form in forms]
    assert forms[0] == forms[1], where


def _form(route: Route, response: Response) -> Any:
    failed = response.status >= 400
    form = normal_form(response.json, None if failed or route.is_raw else _response(route))
    if route.method != "GET":
        return masked(form)
    # Windows of usage end now.
    return masked(form, times_only=True) if route.is_analytics else form


def _response(route: Route) -> Any:
    return route.descriptor.output_type


def _without_words(form: Any) -> Any:
    error = {
        name: member
        for name, member in form["error"].items()
        if name not in _OWN_WORDS and name != "correlation_id"
    }
    return {"error": error}


def _least_body(route: Route) -> Any:
    """Return a body in which the id is the first invalid value."""
    cases = [case.body for case in CASES[_name(route)] if case.status < 300]
    return {} if route.body and not cases else (_plain(cases[-1]) if route.body else None)


def _plain(body: Any) -> Any:
    """Return a body without placeholders: the named objects need not exist."""
    if isinstance(body, dict):
        return {key: _plain(member) for key, member in body.items()}
    if isinstance(body, list):
        return [_plain(item) for item in body]
    return re.sub(r"\{\w+\}", "x", body) if isinstance(body, str) else body
