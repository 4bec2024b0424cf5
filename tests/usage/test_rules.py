"""What a record must be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf import struct_pb2
from spotplane.v1 import usage_pb2 as pb
from spotplane_server.usage import rules
from spotplane_server.usage.rules import AcceptedWindow, Draft, Fault, Reader

from tests.usage.world import record

NOW = datetime(2026, 3, 15, 12, 30, tzinfo=UTC)
TENANT = str(uuid4())


def read(sent: pb.UsageRecord, tenant: str | None = TENANT) -> Draft:
    return Reader(tenant, NOW, AcceptedWindow()).read(0, sent)


def fault(sent: pb.UsageRecord, tenant: str | None = TENANT) -> tuple[str, str]:
    with pytest.raises(Fault) as caught:
        read(sent, tenant)
    return caught.value.code, caught.value.field


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"request_id": "x" * 129}, "request_id"),
        ({"request_id": "a\x00b"}, "request_id"),
        ({"prompt": -1}, "prompt_tokens"),
        ({"completion": -1}, "completion_tokens"),
        ({"prompt": rules.MAX_TOKENS + 1}, "prompt_tokens"),
        ({"cached_tokens": -1}, "cached_tokens"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"latency_ms": 3_600_001}, "latency_ms"),
        ({"status_code": 99}, "status_code"),
        ({"status_code": 600}, "status_code"),
        ({"outcome": "fine"}, "outcome"),
        ({"outcome": ""}, "outcome"),
        ({"timestamp": "2026-03-15"}, "timestamp"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2026-03-15T12:00:00"}, "timestamp"),
        ({"timestamp": "0001-01-01T00:00:00+05:00"}, "timestamp"),
        ({"tenant_id": "me"}, "tenant_id"),
        ({"environment_id": "prod"}, "environment_id"),
        ({"api_key_id": ""}, "api_key_id"),
        ({"model_id": "llama"}, "model_id"),
        ({"region_id": "us"}, "region_id"),
        ({"model": ""}, "model"),
        ({"model": "m", "model_id": str(uuid4())}, "model"),
        ({"region_code": "r", "region_id": str(uuid4())}, "region_code"),
        ({"node_id": "n" * 256}, "node_id"),
    ],
)
def test_malformed_field_is_named(values: dict[str, Any], field: str) -> None:
    """Each malformed field is refused as INVALID_RECORD and named."""
    assert fault(record(**values)) == ("INVALID_RECORD", field)


@pytest.mark.parametrize("field", ["request_id", "prompt_tokens", "completion_tokens"])
def test_required_field_is_named_when_absent(field: str) -> None:
    """The three required fields have no default."""
    sent = record()
    sent.ClearField(field)  # type: ignore[arg-type]
    assert fault(sent) == ("INVALID_RECORD", field)


def test_zero_tokens_are_a_value() -> None:
    """Zero sent is not the same as absent."""
    assert read(record(prompt=0, completion=0)).prompt_tokens == 0


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_metadata_must_be_json(number: float) -> None:
    """What JSON cannot say cannot be stored."""
    sent = record()
    sent.metadata.CopyFrom(struct_pb2.Struct(fields={"n": struct_pb2.Value(number_value=number)}))
    assert fault(sent) == ("INVALID_RECORD", "metadata")


@pytest.mark.parametrize("text", ["x" * 17_000, "a\x00b"])
def test_metadata_must_be_storable(text: str) -> None:
    """Beyond 16 KiB, or with NUL, metadata is refused."""
    sent = record()
    sent.metadata.update({"t": text})
    assert fault(sent) == ("INVALID_RECORD", "metadata")


def test_metadata_with_huge_numbers_is_taken() -> None:
    """A number beyond 64 bits is still a number."""
    sent = record()
    sent.metadata.update({"n": 1e300})
    assert read(sent).metadata == {"n": 1e300}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("success", 500),
        ("success", 404),
        ("success", 301),
        ("client_error", 200),
        ("client_error", 500),
        ("server_error", 200),
        ("server_error", 404),
        ("rate_limited", 200),
    ],
)
def test_outcome_must_not_contradict_status(outcome: str, status: int) -> None:
    """A contradiction is refused as SEMANTIC."""
    assert fault(record(outcome=outcome, status_code=status)) == ("SEMANTIC", "outcome")


@pytest.mark.parametrize("status", [200, 408, 499, 504])
@pytest.mark.parametrize("outcome", ["timeout", "cancelled"])
def test_timeout_and_cancellation_go_with_any_status(outcome: str, status: int) -> None:
    """They may come after the answer began."""
    assert read(record(outcome=outcome, status_code=status)).outcome == outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (None, "success"),
        (204, "success"),
        (429, "client_error"),
        (503, "server_error"),
        (301, "server_error"),
        (100, "server_error"),
    ],
)
def test_absent_outcome_follows_from_status(status: int | None, outcome: str) -> None:
    """No status or 2xx is success, 4xx the client's error, all else the server's."""
    values: dict[str, Any] = {} if status is None else {"status_code": status}
    assert read(record(**values)).outcome == outcome


def test_cached_tokens_are_part_of_the_prompt() -> None:
    """More cached than prompt tokens is impossible."""
    assert fault(record(prompt=5, cached_tokens=6)) == ("SEMANTIC", "cached_tokens")


@pytest.mark.parametrize(
    ("offset", "code"),
    [
        (timedelta(days=-36), "TOO_OLD"),
        (timedelta(days=-35, microseconds=-1), "TOO_OLD"),
        (timedelta(minutes=5, microseconds=1), "IN_FUTURE"),
    ],
)
def test_time_outside_the_window_is_refused(offset: timedelta, code: str) -> None:
    """Too old, or too far ahead."""
    assert fault(record(at=NOW + offset)) == (code, "timestamp")


@pytest.mark.parametrize("offset", [timedelta(days=-35), timedelta(minutes=5), timedelta()])
def test_time_within_the_window_is_taken(offset: timedelta) -> None:
    """The window includes its bounds."""
    assert read(record(at=NOW + offset)).at == NOW + offset


def test_absent_time_is_now() -> None:
    """A record that names no time happened now."""
    assert read(record()).at == NOW


def test_tenant_claim_must_match() -> None:
    """A key cannot report for another tenant, in whatever spelling the claim comes."""
    assert fault(record(tenant_id=str(uuid4()))) == ("TENANT_MISMATCH", "tenant_id")
    assert read(record(tenant_id=TENANT.upper())).scope.tenant_id == TENANT


def test_administrators_name_the_tenant() -> None:
    """Without it nobody would own the record."""
    assert fault(record(), tenant=None) == ("INVALID_RECORD", "tenant_id")
    other = str(uuid4())
    assert read(record(tenant_id=other), tenant=None).scope.tenant_id == other


def test_content_is_what_was_sent() -> None:
    """The hash tells apart absent and default, and ignores the order of metadata."""
    one, two = record("r"), record("r")
    one.metadata.update({"a": 1, "b": 2})
    two.metadata.update({"b": 2, "a": 1})
    assert rules.content_hash(one) == rules.content_hash(two)
    two.cached_tokens = 0
    assert rules.content_hash(one) != rules.content_hash(two)


def test_ids_are_canonical() -> None:
    """Two spellings of one id are one id."""
    model = uuid4()
    sent = record(model_id=model.hex.upper())
    assert UUID(read(sent).scope.model_id or "") == model
    assert read(sent).scope.model_id == str(model)
