"""Legacy requests: many spellings, one message."""

from __future__ import annotations

from typing import Any

import pytest
from spotplane.v1 import agent_pb2, agent_stream_pb2, usage_pb2
from spotplane_bridge.errors import Failure
from spotplane_bridge.legacy.credentials import credential_of
from spotplane_bridge.legacy.requests import (
    Reader,
    TextReader,
    as_parameter,
    instant_text,
    parameter,
)

CONFIG = agent_pb2.UpdateAgentConfigRequest


def _read(kind: Any, members: list[Any], body: dict[str, Any]) -> Any:
    message = kind()
    Reader(kind.DESCRIPTOR, [as_parameter(member) for member in members]).from_json(message, body)
    return message


def _refused(kind: Any, members: list[Any], body: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(Failure) as caught:
        _read(kind, members, body)
    return caught.value.code, caught.value.details[0]["field"]


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), ("false", False), ("1", True), (0, False), ("ON", True)]
)
def test_flags_have_many_spellings(value: object, expected: bool) -> None:
    reply = _read(CONFIG, ["enabled"], {"enabled": value})
    assert (reply.HasField("enabled"), reply.enabled) == (True, expected)


@pytest.mark.parametrize("value", [300, "300", 300.0, "300.0", " 300 "])
def test_numbers_may_come_as_texts(value: object) -> None:
    reply = _read(CONFIG, ["terminate_wait_seconds"], {"terminate_wait_seconds": value})
    assert reply.terminate_wait_seconds == 300


@pytest.mark.parametrize("value", ["soon", 1.5, True, [], {}, "1e400", 2**31])
def test_what_is_no_number_is_refused_by_name(value: object) -> None:
    """Never guessed."""
    member = "terminate_wait_seconds"
    assert _refused(CONFIG, [member], {member: value})[1] == member


def test_null_and_nothing_are_absent_and_unknown_members_are_ignored() -> None:
    body = {"enabled": None, "terminate_wait_seconds": "", "new_in_version_9": {"a": 1}}
    reply = _read(CONFIG, ["enabled", "terminate_wait_seconds"], body)
    assert reply == CONFIG()


def test_the_first_name_that_is_given_counts() -> None:
    """Null does not count as given."""
    members = [parameter("logical_agent_id", "name", "agent_name")]
    kind = agent_pb2.RegisterRequest
    assert _read(kind, members, {"agent_name": "c", "name": "b"}).logical_agent_id == "b"
    reply = _read(kind, members, {"logical_agent_id": None, "agent_name": "c"})
    assert reply.logical_agent_id == "c"


def test_money_is_given_in_dollars() -> None:
    """Exactly, also in lists of objects."""
    members = [
        parameter(
            "pools",
            field="spot",
            of=["az", parameter("price", field="price_nanousd_per_hour"), "instance_type"],
        )
    ]
    body = {"pools": [{"az": "a", "price": "0.0416"}, None, {"az": "b", "price": 0.1}]}
    reply = _read(agent_stream_pb2.PriceReport, members, body)
    assert [p.price_nanousd_per_hour for p in reply.spot] == [41_600_000, 100_000_000]
    bad = {"pools": [{"price": "free"}]}
    assert _refused(agent_stream_pb2.PriceReport, members, bad)[1] == "pools[0].price"


@pytest.mark.parametrize(
    "value",
    [
        "2026-03-01T12:00:00",
        "2026-03-01T12:00:00Z",
        "2026-03-01 12:00:00+00:00",
        "2026-03-01T14:00:00+02:00",
        "2026-03-01T12:00:00.000000000",
    ],
)
def test_an_instant_without_offset_is_utc(value: str) -> None:
    reply = _read(agent_stream_pb2.PriceReport, ["observed_at"], {"observed_at": value})
    assert reply.observed_at.ToJsonString() == "2026-03-01T12:00:00Z"
    assert instant_text(value) == "2026-03-01T12:00:00Z"


@pytest.mark.parametrize(
    "value", ["yesterday", 17, "2026-13-01T00:00:00", "0001-01-01T00:00+23:00"]
)
def test_what_is_no_instant_is_refused(value: object) -> None:
    members = [parameter("collected_at", field="observed_at")]
    code, field = _refused(agent_stream_pb2.PriceReport, members, {"collected_at": value})
    assert (code, field) == ("INVALID_DATE", "collected_at")


def test_texts_have_an_end() -> None:
    kind = agent_pb2.RegisterRequest
    assert _read(kind, ["hostname"], {"hostname": 17}).hostname == "17"
    assert (
        _refused(kind, [parameter("hostname", max_length=3)], {"hostname": "abcd"})[0]
        == "OUT_OF_RANGE"
    )
    assert _refused(kind, ["hostname"], {"hostname": "x" * 20_000})[1] == "hostname"


@pytest.mark.parametrize("word", ["all", "", "ALL"])
def test_all_and_nothing_are_no_filter(word: str) -> None:
    kind = agent_pb2.ListAgentsRequest
    message = kind()
    TextReader(kind.DESCRIPTOR, [parameter("status")]).from_text(message, {"status": word})
    assert not message.HasField("status")
    TextReader(kind.DESCRIPTOR, [parameter("search", exact=True)]).from_text(
        message, {"search": word}
    )
    assert message.search == word


def test_a_cursor_is_a_page_token() -> None:
    kind = agent_pb2.ListAgentsRequest
    message = kind()
    TextReader(kind.DESCRIPTOR, [parameter("cursor")]).from_text(message, {"cursor": "abc"})
    assert message.page_token == "abc"


def test_a_member_without_a_field_stops_the_start() -> None:
    """It would be lost in silence."""
    with pytest.raises(ValueError, match="nope"):
        Reader(usage_pb2.IngestUsageRequest.DESCRIPTOR, [parameter("nope")])


@pytest.mark.parametrize(
    ("headers", "body", "query", "expected"),
    [
        ({"X-Admin-Token": "a", "Authorization": "Bearer b"}, {}, {}, ("x-admin-token", "a")),
        (
            {"Authorization": "Bearer b", "X-Client-Token": "c"},
            {},
            {},
            ("authorization", "Bearer b"),
        ),
        ({"X-Client-Token": "c"}, {"client_token": "d"}, {}, ("authorization", "Bearer c")),
        ({}, {"client_token": "d", "token": "e"}, {}, ("authorization", "Bearer d")),
        ({}, {"token": "e"}, {"ticket": "f"}, ("authorization", "Bearer e")),
        ({}, {"token": 7}, {"ticket": "f"}, ("x-spotplane-ticket", "f")),
        ({"Authorization": "bearer  b "}, {}, {}, ("authorization", "Bearer b")),
    ],
)
def test_the_first_credential_decides(
    headers: dict[str, str], body: dict[str, Any], query: dict[str, str], expected: tuple[str, str]
) -> None:
    found = credential_of(headers, body, query)
    assert (found.key, found.value) == expected


@pytest.mark.parametrize("header", ["", "Bearer", "Basic abc", "Bearer a b", "token"])
def test_an_empty_credential_header_is_rejected(header: str) -> None:
    with pytest.raises(Failure) as caught:
        credential_of({"Authorization": header, "X-Client-Token": "c"}, {}, {})
    assert (caught.value.status, caught.value.code) == (401, "INVALID_AUTH_FORMAT")
