"""Requests: strict queries, tolerant bodies, and errors that name the field."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spotplane_bridge.errors import Failure
from spotplane_bridge.parser import MAX_FREE_DEPTH, writers
from spotplane_bridge.routes import Route, load_routes
from spotplane_bridge.transcode import check_media_type, read_request

ROUTES = {f"{route.method} {route.template}": route for route in load_routes()}
TENANTS = ROUTES["GET /admin/tenants"]
CREATE = ROUTES["POST /admin/tenants"]
UPDATE = ROUTES["PUT /admin/tenants/{id}"]
INGEST = ROUTES["POST /v1/usage/records"]
INSTANCE_TYPES = ROUTES["GET /admin/instance-types"]


def body(route: Route, value: Any, *values: str) -> Any:
    return read_request(route, values, "", orjson.dumps(value))


def refusal(route: Route, query: str = "", data: bytes = b"") -> Failure:
    with pytest.raises(Failure) as caught:
        read_request(route, ["x"] * len(route.variables), query, data)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@settings(max_examples=10, deadline=None)
@given(name=st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=10))
def test_unknown_query_parameters_are_named(route: Route, name: str) -> None:
    assume(name not in writers(route.descriptor.input_type))
    failure = refusal(route, query=f"{name}=1")
    assert failure.code == "UNKNOWN_PARAMETER"
    assert failure.details[0]["field"] == name


def test_parameters_of_path_and_body_are_not_query_parameters() -> None:
    """A route takes each field from one place only."""
    assert refusal(ROUTES["GET /admin/tenants/{id}"], query="id=1").code == "UNKNOWN_PARAMETER"
    assert refusal(CREATE, query="name=x").code == "UNKNOWN_PARAMETER"


@pytest.mark.parametrize("text", ["10abc", "", "1.5", "0x10", "1e3", "NaN", "9" * 30, "²", "1_0"])
def test_a_limit_that_is_no_integer_is_refused(text: str) -> None:
    failure = refusal(TENANTS, query=f"limit={text}")
    assert failure.code == "OUT_OF_RANGE"
    assert failure.details[0]["field"] == "limit"


@pytest.mark.parametrize("text", ["1", "yes", "True", ""])
def test_a_switch_is_true_or_false(text: str) -> None:
    """Nothing else is read as one."""
    assert refusal(INSTANCE_TYPES, query=f"available={text}").code == "UNKNOWN_ENUM"


def test_a_parameter_given_twice_is_refused() -> None:
    """No value is dropped silently."""
    assert refusal(TENANTS, query="limit=1&limit=2").details[0]["field"] == "limit"


def test_query_parameters_are_decoded() -> None:
    """Percent signs and plus signs mean what they mean in forms."""
    request: Any = read_request(TENANTS, [], "search=a%20b+c%2B&limit=7&offset=0", b"")
    assert (request.search, request.limit, request.offset) == ("a b c+", 7, 0)
    assert request.HasField("offset")
    assert not request.HasField("status")


def test_an_empty_body_and_null_are_an_empty_object() -> None:
    """A body may be left out everywhere."""
    assert read_request(CREATE, [], "", b"") == body(CREATE, {}) == body(CREATE, None)


def test_unknown_members_and_nulls_are_as_if_absent() -> None:
    """Newer clients may send members that this server does not know."""
    assert body(UPDATE, {"tier": None, "colour": {"deep": [1]}}, "a") == body(UPDATE, {}, "a")


def test_the_path_wins_over_the_body() -> None:
    assert body(UPDATE, {"id": "other"}, "mine").id == "mine"


@pytest.mark.parametrize("data", [b"{", b"[]", b"1", b'"x"', b"\xff", b"{'a':1}", b'{"a":NaN}'])
def test_a_body_must_be_a_json_object(data: bytes) -> None:
    assert refusal(CREATE, data=data).code == "INVALID_JSON"


@pytest.mark.parametrize(
    ("route", "value", "field"),
    [
        (CREATE, {"name": 5}, "name"),
        (CREATE, {"name": ["x"]}, "name"),
        (CREATE, {"metadata": []}, "metadata"),
        (INGEST, {"records": {}}, "records"),
        (INGEST, {"records": [{}, 3]}, "records[1]"),
        (INGEST, {"records": [None]}, "records[0]"),
        (INGEST, {"records": [{}, {"prompt_tokens": True}]}, "records[1].prompt_tokens"),
        (INGEST, {"records": [{"latency_ms": "12ms"}]}, "records[0].latency_ms"),
        (INGEST, {"atomic": "true"}, "atomic"),
    ],
)
def test_a_member_of_another_type_is_named(route: Route, value: Any, field: str) -> None:
    """The path leads to the member at fault."""
    failure = refusal(route, data=orjson.dumps(value))
    assert failure.code == "INVALID_JSON"
    assert failure.details[0]["field"] == field


def test_integers_may_be_numbers_or_texts() -> None:
    records = [{"prompt_tokens": 2**53 + 1}, {"prompt_tokens": str(2**62)}, {"prompt_tokens": 4.0}]
    tokens = [record.prompt_tokens for record in body(INGEST, {"records": records}).records]
    assert tokens == [2**53 + 1, 2**62, 4]


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 1e300])
def test_an_integer_out_of_its_type_is_out_of_range(number: float) -> None:
    """It is a number, so the JSON is not at fault."""
    failure = refusal(INGEST, data=orjson.dumps({"records": [{"latency_ms": number}]}))
    assert failure.code == "OUT_OF_RANGE"


def test_a_free_object_has_a_depth() -> None:
    """Deeper ones cannot be sent as a message, and would fail much later."""
    deepest: Any = {}
    for _ in range(MAX_FREE_DEPTH - 1):
        deepest = {"a": deepest}
    data = body(CREATE, {"metadata": deepest}).SerializeToString()
    assert CREATE.request_class.FromString(data).SerializeToString(deterministic=True)
    failure = refusal(CREATE, data=orjson.dumps({"metadata": {"a": deepest}}))
    assert failure.details[0]["field"] == "metadata"


@pytest.mark.parametrize("text", [None, "application/json", "application/JSON; charset=utf-8"])
def test_json_in_every_spelling_is_a_media_type(text: str | None) -> None:
    """No media type at all is JSON too."""
    check_media_type(text)


def test_other_media_types_are_refused() -> None:
    """415 with the contract's code."""
    with pytest.raises(Failure) as caught:
        check_media_type("text/xml")
    assert (caught.value.status, caught.value.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_body_breaks_the_reader(data: bytes) -> None:
    """Any bytes are a request or a refusal."""
    with suppress(Failure):
        read_request(CREATE, [], "", data)
