"""Failures and their two JSON formats: the API's own, and that of `/api/**`.

The server sends an error as `google.rpc.Status` and, for the REST frontends, as a line of JSON in
the trailing metadata. An error with neither comes from gRPC itself; only its code is reported, so
that nothing internal leaks.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio
import orjson
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

# Trailing metadata that becomes headers of the response.
_HEADERS: Final = {
    "idempotent-replayed": "Idempotent-Replayed",
    "retry-after": "Retry-After",
    "x-ratelimit-limit": "X-RateLimit-Limit",
    "x-ratelimit-remaining": "X-RateLimit-Remaining",
    "x-ratelimit-reset": "X-RateLimit-Reset",
}

# Type and category by HTTP status.
_KINDS: Final[dict[int, tuple[str, str]]] = {
    400: ("invalid_request_error", "validation"),
    401: ("authentication_error", "authentication"),
    403: ("permission_error", "authorization"),
    404: ("not_found_error", "not_found"),
    405: ("invalid_request_error", "validation"),
    408: ("timeout_error", "timeout"),
    409: ("conflict_error", "conflict"),
    413: ("invalid_request_error", "validation"),
    415: ("invalid_request_error", "validation"),
    422: ("validation_error", "validation"),
    429: ("rate_limit_error", "rate_limit"),
    431: ("invalid_request_error", "validation"),
    500: ("internal_error", "server"),
    501: ("unavailable_error", "service_unavailable"),
    503: ("unavailable_error", "service_unavailable"),
    504: ("timeout_error", "timeout"),
}

# HTTP status, code and text of a gRPC status without a reason.
_BY_GRPC_CODE: Final[dict[grpc.StatusCode, tuple[int, str, str]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "INVALID_FIELD", "the request is not acceptable"),
    grpc.StatusCode.OUT_OF_RANGE: (400, "OUT_OF_RANGE", "a value is out of range"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "API_KEY_INVALID", "invalid API key"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "SCOPE_FORBIDDEN", "this is not allowed"),
    grpc.StatusCode.NOT_FOUND: (404, "NOT_FOUND", "there is no such resource"),
    grpc.StatusCode.ALREADY_EXISTS: (409, "CONFLICT", "it exists already"),
    grpc.StatusCode.ABORTED: (409, "CONFLICT", "somebody else changed it meanwhile; try again"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "CONFLICT", "its state does not allow this"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "RATE_LIMIT_EXCEEDED", "too many requests"),
    grpc.StatusCode.UNIMPLEMENTED: (501, "UNIMPLEMENTED", "the server cannot do this"),
    grpc.StatusCode.UNAVAILABLE: (
        503,
        "SERVICE_UNAVAILABLE",
        "the control plane cannot be reached; try again",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        504,
        "DEADLINE_EXCEEDED",
        "the deadline passed; whether the change took effect is unknown",
    ),
}
_UNKNOWN: Final = (500, "INTERNAL", "internal error")


class ErrorFormat(enum.Enum):
    """The error format of a path."""

    CANONICAL = "canonical"
    LEGACY = "legacy"


def error_format_of(path: str) -> ErrorFormat:
    """Return the error format of a path: `/api/**` has its own, except `/api/v1/admin/**`."""
    if path.startswith("/api/") and not path.startswith("/api/v1/admin/"):
        return ErrorFormat.LEGACY
    return ErrorFormat.CANONICAL


@dataclass(eq=False)
class Failure(Exception):
    """An error response.

    Attributes:
        status: HTTP status.
        code: A reason from `error_reason.proto`, or one that only REST has.
        message: Human-readable text.
        details: Invalid fields, each with `field` and `description`.
        suggestion: Advice to the caller.
        headers: Response headers, e.g. `Retry-After`.
        metadata: Variable parts of the message, as the server sent them.
        members: Additional members of this error under `/api/**`.
    """

    status: int
    code: str
    message: str
    details: list[dict[str, str]] = field(default_factory=list)
    suggestion: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)

    def body(self, error_format: ErrorFormat, correlation_id: str) -> dict[str, Any]:
        """Return the JSON object in the given format."""
        if error_format is ErrorFormat.LEGACY:
            return _legacy_body(self, correlation_id)
        kind, category = _KINDS.get(self.status, ("internal_error", "server"))
        error: dict[str, Any] = {
            "message": self.message,
            "type": kind,
            "code": self.code,
            "category": category,
            "status_code": self.status,
            "correlation_id": correlation_id,
        }
        if self.suggestion:
            error["suggestion"] = self.suggestion
        if self.details:
            error["details"] = self.details
        return {"error": error}

    def status_in(self, error_format: ErrorFormat) -> int:
        """Return the HTTP status in the given format."""
        if error_format is ErrorFormat.LEGACY:
            usual = 400 if self.status == 422 else self.status
            return _LEGACY_STATUS.get(legacy_code(self.code), usual)
        return self.status


def invalid(code: str, name: str, description: str) -> Failure:
    """Return the failure for one invalid field or parameter."""
    return Failure(
        400, code, f"{name}: {description}", [{"field": name, "description": description}]
    )


def from_rpc(err: grpc.aio.AioRpcError) -> Failure:
    """Convert a failed call into a REST failure."""
    # Through `iter`, because the type looks like a mapping but its keys are pairs.
    trailing: dict[str, Any] = dict(iter(err.trailing_metadata() or ()))
    detailed = _from_status(trailing)
    failure = _from_line(trailing) or detailed or _too_large(err) or _from_code(err.code())
    if detailed is not None:
        failure.metadata = detailed.metadata
    for key, name in _HEADERS.items():
        if key in trailing:
            failure.headers[name] = str(trailing[key])
    if failure.status == 503:
        failure.headers.setdefault("Retry-After", "1")
    return failure


def _from_line(trailing: dict[str, Any]) -> Failure | None:
    """Parse `x-spotplane-error`, the server's error object as JSON."""
    try:
        error = orjson.loads(trailing["x-spotplane-error"])
        error = error.get("error", error)
        status = int(trailing.get("x-spotplane-http-status") or error["status_code"])
        if not 400 <= status <= 599:
            return None
        return Failure(
            status,
            str(error["code"]),
            str(error["message"]),
            list(error.get("details") or ()),
            error.get("suggestion"),
        )
    except (KeyError, ValueError, AttributeError, TypeError):
        return None


def _from_status(trailing: dict[str, Any]) -> Failure | None:
    """Parse `google.rpc.Status` with its details; None without an `ErrorInfo` of ours."""
    data = trailing.get("grpc-status-details-bin")
    if not isinstance(data, bytes):
        return None
    try:
        status = status_pb2.Status.FromString(data)
    except DecodeError:
        return None
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        for message in (info, bad, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    if info.domain != "spotplane" or not info.reason:
        return None
    http_status = info.metadata.get("http_status", "")
    failure = Failure(
        int(http_status) if http_status.isdecimal() else _plain_status(status.code),
        info.reason,
        status.message,
        [{"field": v.field, "description": v.description} for v in bad.field_violations],
        info.metadata.get("suggestion"),
        metadata=dict(info.metadata),
    )
    if retry.HasField("retry_delay"):
        delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        failure.headers["Retry-After"] = str(max(1, math.ceil(delay)))
    return failure


def _too_large(err: grpc.aio.AioRpcError) -> Failure | None:
    """Convert a rejection by gRPC itself, which has one code for limits of size and of rate."""
    if err.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return None
    text = (err.details() or "").lower()
    if "message larger than max" in text:
        return Failure(413, "PAYLOAD_TOO_LARGE", "the request is too large")
    if "metadata size exceeds" in text:
        return Failure(431, "PAYLOAD_TOO_LARGE", "the request headers are too large")
    return None


def _plain_status(number: int) -> int:
    for code, (status, _, _) in _BY_GRPC_CODE.items():
        if code.value[0] == number:
            return status
    return 500


def _from_code(code: grpc.StatusCode) -> Failure:
    return Failure(*_BY_GRPC_CODE.get(code, _UNKNOWN))


# --- the format of /api/** ---

_LEGACY_CODES: Final = {
    "API_KEY_MISSING": "UNAUTHORIZED",
    "ADMIN_TOKEN_MISSING": "UNAUTHORIZED",
    "API_KEY_INVALID": "INVALID_TOKEN",
    "API_KEY_EXPIRED": "INVALID_TOKEN",
    "ADMIN_TOKEN_INVALID": "INVALID_TOKEN",
    "AGENT_CREDENTIAL_INVALID": "INVALID_TOKEN",
    "TENANT_SUSPENDED": "INACTIVE_CLIENT",
    "ENVIRONMENT_SUSPENDED": "INACTIVE_CLIENT",
    "KEY_SUSPENDED": "INACTIVE_CLIENT",
    "ROLE_FORBIDDEN": "FORBIDDEN",
    "SCOPE_FORBIDDEN": "FORBIDDEN",
    "TENANT_MISMATCH": "FORBIDDEN",
    "IP_NOT_ALLOWED": "FORBIDDEN",
    "MISSING_FIELD": "VALIDATION_ERROR",
    "INVALID_ID": "VALIDATION_ERROR",
    "INVALID_DATE": "VALIDATION_ERROR",
    "INVALID_EMAIL": "VALIDATION_ERROR",
    "OUT_OF_RANGE": "VALIDATION_ERROR",
    "UNKNOWN_ENUM": "VALIDATION_ERROR",
    "UNKNOWN_PARAMETER": "VALIDATION_ERROR",
    "INVALID_PAGE_TOKEN": "VALIDATION_ERROR",
    "NO_FIELDS": "VALIDATION_ERROR",
    "INVALID_JSON": "VALIDATION_ERROR",
    "INVALID_FIELD": "VALIDATION_ERROR",
    "INVALID_MESSAGE": "VALIDATION_ERROR",
    "SEMANTIC": "VALIDATION_ERROR",
    "EMAIL_TAKEN": "CLIENT_EXISTS",
    "REPLICA_ALREADY_FINAL": "ALREADY_TERMINATED",
    "TENANT_DELETED": "NOT_FOUND",
    "TENANT_NOT_ACTIVE": "INACTIVE_CLIENT",
    "DATABASE_UNAVAILABLE": "SERVICE_UNAVAILABLE",
    "LIMITER_UNAVAILABLE": "SERVICE_UNAVAILABLE",
    "DRAINING": "SERVICE_UNAVAILABLE",
    "INTERNAL": "SERVER_ERROR",
    "RATE_LIMIT_REQUESTS": "RATE_LIMIT_EXCEEDED",
    "RATE_LIMIT_TOKENS": "RATE_LIMIT_EXCEEDED",
    "CONCURRENCY_LIMIT": "RATE_LIMIT_EXCEEDED",
    "STREAM_LIMIT": "RATE_LIMIT_EXCEEDED",
    "ENVIRONMENT_LIMIT": "RATE_LIMIT_EXCEEDED",
    "TENANT_LIMIT": "RATE_LIMIT_EXCEEDED",
    "ADMIN_RATE_LIMIT": "RATE_LIMIT_EXCEEDED",
}
# Texts that existing clients compare.
_LEGACY_TEXTS: Final = {
    "UNAUTHORIZED": "Missing client token",
    "INVALID_TOKEN": "Invalid client token",
    # One text for another tenant's, unknown and malformed ids.
    "NOT_FOUND": "There is no such resource",
}
# State and mode errors that gRPC reports as a failed precondition and these routes as a bad
# request.
_LEGACY_STATUS: Final = {
    **dict.fromkeys(
        (
            "VALIDATION_ERROR",
            "INVALID_TRANSITION",
            "MANUAL_REPLICA_DISABLED",
            "REPLICA_LIMIT",
            "REPLICA_NOT_PROMOTABLE",
            "ALREADY_TERMINATED",
            "AGENT_DISABLED",
            "CONFIRM_REQUIRED",
            "MODE_CONFLICT",
            "UNKNOWN_POOL",
            "POOL_REQUIRED",
            "NO_POOL_AVAILABLE",
            "TYPE_MISMATCH",
            "UNSUPPORTED_MODEL_FORMAT",
            "MODEL_INVALID",
        ),
        400,
    ),
    "INVALID_TOKEN": 401,
    "UNAUTHORIZED": 401,
    "AUTO_SWITCH_DISABLED": 403,
    "INACTIVE_CLIENT": 403,
    "NOT_FOUND": 404,
    "AGENT_OFFLINE": 404,
}


def legacy_code(code: str) -> str:
    """Return the code of a reason under `/api/**`."""
    if code.endswith("_NOT_FOUND") and code != "ROUTE_NOT_FOUND":
        return "NOT_FOUND"
    return _LEGACY_CODES.get(code, code)


def _legacy_body(failure: Failure, correlation_id: str) -> dict[str, Any]:
    code = legacy_code(failure.code)
    body: dict[str, Any] = {
        "status": "error",
        "error": _LEGACY_TEXTS.get(code, failure.message),
        "data": None,
        "code": code,
        "correlation_id": correlation_id,
    }
    if failure.details:
        body["details"] = [
            {"field": detail.get("field", ""), "message": detail.get("description", "")}
            for detail in failure.details
        ]
    if failure.suggestion:
        body["hint"] = failure.suggestion
    body.update(failure.members)
    return body
