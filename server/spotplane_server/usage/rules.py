"""What a usage record must be: pure checks, each refusal with its code and field."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from spotplane.v1 import usage_pb2 as pb

from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Invalid
from spotplane_server.usage.sketch import MAX_LATENCY_MS

MAX_BATCH: Final = 1000
MAX_REQUEST_ID: Final = 128
MAX_NODE_ID: Final = 255
MAX_NAME: Final = 255
# Far beyond any request; keeps the sums of an hour within 64 bits.
MAX_TOKENS: Final = 1_000_000_000
OUTCOMES: Final = (
    "success",
    "client_error",
    "server_error",
    "timeout",
    "cancelled",
    "rate_limited",
)

# Why a record may be refused.
CODES: Final = (
    "INVALID_RECORD",
    "SEMANTIC",
    "REQUEST_ID_REUSED",
    "UNKNOWN_MODEL",
    "UNKNOWN_REGION",
    "UNKNOWN_KEY",
    "TOO_OLD",
    "IN_FUTURE",
    "TENANT_MISMATCH",
)

_HASH_BYTES: Final = 16

RawScope: TypeAlias = tuple[str | None, ...]
_Presence: TypeAlias = Literal[
    "prompt_tokens", "completion_tokens", "status_code", "latency_ms", "node_id"
]
_SCOPE_FIELDS: Final = (
    "tenant_id",
    "environment_id",
    "api_key_id",
    "model_id",
    "model",
    "region_id",
    "region_code",
)
_SCOPE: Final[Callable[[pb.UsageRecord], RawScope]] = attrgetter(*_SCOPE_FIELDS)


class Fault(Exception):
    """One record is refused; the others are not.

    Args:
        code: As documented at `UsageRecordError.code`.
        field: At fault.
        description: For a person.
    """

    def __init__(self, code: str, field: str, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.field = field
        self.description = description


@dataclass(frozen=True, slots=True)
class AcceptedWindow:
    """How far from now a record's time may lie."""

    late: timedelta = timedelta(days=35)
    future: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """Whose usage it is and of what, as sent: ids canonical, names not yet looked up.

    Compared by identity: a batch has one for each combination that was sent.
    """

    tenant_id: str
    environment_id: str | None
    api_key_id: str | None
    model_id: str | None
    model: str | None
    region_id: str | None
    region_code: str | None


@dataclass(slots=True)
class Draft:
    """A record that is well-formed.

    Attributes:
        index: Position in the batch.
        content_hash: Of the fields as sent, before any default.
        outcome: As sent, or what `status_code` means.
    """

    index: int
    request_id: str
    at: datetime
    scope: Scope
    node_id: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    latency_ms: int | None
    status_code: int | None
    outcome: str
    metadata: dict[str, Any] | None
    content_hash: bytes


@dataclass(slots=True)
class Reader:
    """Reads the records of one batch; equal scopes are read once.

    Args:
        tenant_id: Of the caller; None for administrators, who name it in each record.
        now: Time of records that name none.
        window: How far from now a time may lie.
    """

    tenant_id: str | None
    now: datetime
    window: AcceptedWindow
    # By what was sent, and which fields of that were left out.
    _scopes: dict[RawScope, tuple[Scope | Fault, list[str]]] = field(default_factory=dict)
    _earliest: datetime = field(init=False)
    _latest: datetime = field(init=False)

    def __post_init__(self) -> None:
        self._earliest = self.now - self.window.late
        self._latest = self.now + self.window.future

    def read(self, index: int, record: pb.UsageRecord) -> Draft:
        """Check one record.

        Raises:
            Fault: It is refused.
        """
        request_id = record.request_id
        if not request_id or len(request_id) > MAX_REQUEST_ID or "\x00" in request_id:
            raise _bad("request_id", f"must have 1..{MAX_REQUEST_ID} characters, none of them NUL")
        prompt = _tokens(record, "prompt_tokens", record.prompt_tokens)
        completion = _tokens(record, "completion_tokens", record.completion_tokens)
        status = _integer(record, "status_code", record.status_code, 100, 599)
        return Draft(
            index,
            request_id,
            self._instant(record),
            self._scope(record),
            _text(record, "node_id", MAX_NODE_ID),
            prompt,
            completion,
            _cached(record.cached_tokens, prompt),
            _integer(record, "latency_ms", record.latency_ms, 0, MAX_LATENCY_MS),
            status,
            _outcome(record, status),
            _metadata(record),
            content_hash(record),
        )

    def _instant(self, record: pb.UsageRecord) -> datetime:
        text = record.timestamp
        if not text and not record.HasField("timestamp"):
            return self.now
        try:
            at = wire.instant(text, "timestamp")
        except Invalid as err:
            raise _bad("timestamp", err.message) from err
        return self.accepted(at)

    def accepted(self, at: datetime) -> datetime:
        """Hold a record's time to the window.

        Raises:
            Fault: It is too old, or too far ahead.
        """
        if at < self._earliest:
            raise Fault("TOO_OLD", "timestamp", f"older than {self.window.late.days} days")
        if at > self._latest:
            raise Fault("IN_FUTURE", "timestamp", f"ahead by more than {self.window.future}")
        return at

    def _scope(self, record: pb.UsageRecord) -> Scope:
        values = _SCOPE(record)
        known = self._scopes.get(values)
        if known is None:
            known = self._scopes[values] = self._read_scope(values)
        found, absent = known
        if any(map(record.HasField, absent)):  # type: ignore[arg-type]
            # Sent empty, which is not the same as left out.
            has = record.HasField
            sent = zip(_SCOPE_FIELDS, values, strict=True)
            return scope(
                tuple([v if v or has(n) else None for n, v in sent]),  # type: ignore[arg-type]
                self.tenant_id,
            )
        if isinstance(found, Fault):
            raise Fault(found.code, found.field, found.description)
        return found

    def _read_scope(self, values: RawScope) -> tuple[Scope | Fault, list[str]]:
        absent = [name for name, value in zip(_SCOPE_FIELDS, values, strict=True) if not value]
        try:
            return scope(tuple([value or None for value in values]), self.tenant_id), absent
        except Fault as fault:
            return fault, absent


def scope(raw: RawScope, caller_tenant: str | None) -> Scope:
    """Read whose usage a record is.

    Args:
        raw: `tenant_id` to `region_code` as sent.
        caller_tenant: None for administrators.

    Raises:
        Fault: `INVALID_RECORD`, or `TENANT_MISMATCH` when the claim is not the caller's tenant.
    """
    tenant, environment, api_key, model_id, model, region_id, region_code = raw
    claimed = _uuid(tenant, "tenant_id")
    if caller_tenant is not None and claimed not in {None, caller_tenant}:
        raise Fault("TENANT_MISMATCH", "tenant_id", "not the tenant of the API key")
    owner = caller_tenant or claimed
    if owner is None:
        raise _bad("tenant_id", "is required from administrators")
    if model_id is not None and model is not None:
        raise _bad("model", "excludes model_id")
    if region_id is not None and region_code is not None:
        raise _bad("region_code", "excludes region_id")
    return Scope(
        owner,
        _uuid(environment, "environment_id"),
        _uuid(api_key, "api_key_id"),
        _uuid(model_id, "model_id"),
        _name(model, "model"),
        _uuid(region_id, "region_id"),
        _name(region_code, "region_code"),
    )


def content_hash(record: pb.UsageRecord) -> bytes:
    """Hash of the fields as sent: equal for a resend, different for another content."""
    return hashlib.blake2b(
        record.SerializeToString(deterministic=True), digest_size=_HASH_BYTES
    ).digest()


def outcome_of(status: int | None) -> str:
    """The outcome that an HTTP status means; success when there is none."""
    if status is None or status // 100 == 2:
        return "success"
    return "client_error" if status // 100 == 4 else "server_error"


def contradicts(outcome: str, status: int | None) -> bool:
    """Whether an outcome cannot go with an HTTP status.

    A timeout or a cancellation can follow any status: it may come after the answer began.
    """
    if status is None or outcome in {"timeout", "cancelled"}:
        return False
    if outcome == "rate_limited":
        return status // 100 == 2
    return outcome != outcome_of(status)


def _outcome(record: pb.UsageRecord, status: int | None) -> str:
    outcome = record.outcome
    if not outcome and not record.HasField("outcome"):
        return outcome_of(status)
    if outcome not in OUTCOMES:
        raise _bad("outcome", f"must be one of {', '.join(OUTCOMES)}")
    if contradicts(outcome, status):
        raise Fault("SEMANTIC", "outcome", f"{outcome} contradicts status_code {status}")
    return outcome


def _tokens(record: pb.UsageRecord, name: _Presence, value: int) -> int:
    if not value and not record.HasField(name):
        raise _bad(name, "is required")
    if not 0 <= value <= MAX_TOKENS:
        raise _bad(name, f"must be between 0 and {MAX_TOKENS}")
    return value


def _cached(cached: int, prompt: int) -> int:
    if not 0 <= cached <= MAX_TOKENS:
        raise _bad("cached_tokens", f"must be between 0 and {MAX_TOKENS}")
    if cached > prompt:
        raise Fault("SEMANTIC", "cached_tokens", "must not be above prompt_tokens")
    return cached


def _integer(
    record: pb.UsageRecord, name: _Presence, value: int, minimum: int, maximum: int
) -> int | None:
    if not value and not record.HasField(name):
        return None
    if not minimum <= value <= maximum:
        raise _bad(name, f"must be between {minimum} and {maximum}")
    return value


def _text(record: pb.UsageRecord, name: _Presence, maximum: int) -> str | None:
    value: str = getattr(record, name)
    return _name(value, name, maximum) if value or record.HasField(name) else None


def _name(value: str | None, name: str, maximum: int = MAX_NAME) -> str | None:
    if value is not None and (not value or len(value) > maximum or "\x00" in value):
        raise _bad(name, f"must have 1..{maximum} characters, none of them NUL")
    return value


def _uuid(value: str | None, name: str) -> str | None:
    try:
        return None if value is None else _canonical(value)
    except ValueError as err:
        raise _bad(name, "is not a UUID") from err


# The same few in every batch.
@lru_cache(4096)
def _canonical(text: str) -> str:
    return str(UUID(text))


def _metadata(record: pb.UsageRecord) -> dict[str, Any] | None:
    if not record.HasField("metadata"):
        return None
    try:
        return wire.json_object(record, "metadata")
    except Invalid as err:
        raise _bad("metadata", err.message) from err


def _bad(name: str, rule: str) -> Fault:
    description = rule if rule.startswith(name) else f"{name} {rule}"
    return Fault("INVALID_RECORD", name, description)
