"""Errors visible to callers, and their translation to `google.rpc.Status`.

Features raise what happened; nothing but this module and the middleware knows status codes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

DOMAIN: Final = "spotplane"
# gRPC refuses trailers beyond 8 KiB, and with them the whole answer. An error travels in them three
# times: as message (of which a byte may take three), as status, and as the REST doors' object.
MAX_TEXT_BYTES: Final = 400
MAX_STATUS_BYTES: Final = 2048
MAX_ERROR_HEADER_BYTES: Final = 4096

_TYPES: Final[dict[int, tuple[str, str]]] = {
    400: ("invalid_request_error", "validation"),
    401: ("authentication_error", "authentication"),
    403: ("permission_error", "authorization"),
    404: ("not_found_error", "not_found"),
    409: ("conflict_error", "conflict"),
    413: ("invalid_request_error", "validation"),
    422: ("validation_error", "validation"),
    429: ("rate_limit_error", "rate_limit"),
    500: ("internal_error", "server"),
    501: ("unavailable_error", "service_unavailable"),
    503: ("unavailable_error", "service_unavailable"),
    504: ("timeout_error", "timeout"),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is at fault."""

    field: str
    description: str


class DomainError(Exception):
    """Something that the caller did or met, said so that it can act.

    Args:
        message: For a person; nothing internal.
        details: Fields at fault, if any.
        suggestion: What to do instead.
        retry_after_seconds: When a retry makes sense.
        metadata: Whatever is variable in the message; also as keywords.
        more: The same.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500
    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        details: Sequence[Violation] = (),
        suggestion: str | None = None,
        retry_after_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **more: str,
    ) -> None:
        super().__init__(message)
        self.message = _brief(message)
        self.details = tuple(details)
        self.suggestion = suggestion and _brief(suggestion)
        self.retry_after_seconds = retry_after_seconds
        self.metadata = {**(metadata or {}), **more}


class Invalid(DomainError):
    """A request is malformed; the same request will never succeed."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    reason = "INVALID_FIELD"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        reason: str | None = None,
        details: Sequence[Violation] = (),
        suggestion: str | None = None,
        **metadata: str,
    ) -> None:
        if field is not None:
            details = (Violation(field, message), *details)
        super().__init__(message, details=details, suggestion=suggestion, metadata=metadata)
        if reason is not None:
            self.reason = reason  # type: ignore[misc]


class Semantic(Invalid):
    """A request is well-formed but impossible."""

    http_status = 422
    reason = "SEMANTIC"


class Unauthenticated(DomainError):
    """The caller has not proven who it is."""

    code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401


class Forbidden(DomainError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403


class NotFound(DomainError):
    """There is no such thing, or it is another tenant's."""

    code = grpc.StatusCode.NOT_FOUND
    http_status = 404


class AlreadyExists(DomainError):
    """Something unique is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS
    http_status = 409


class Precondition(DomainError):
    """The state of things forbids it; repeating does not help."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 409


class Conflict(DomainError):
    """Somebody else was faster; retry all of it."""

    code = grpc.StatusCode.ABORTED
    http_status = 409
    reason = "CONFLICT"


class Exhausted(DomainError):
    """A budget is used up."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429


class PayloadTooLarge(DomainError):
    """A message is beyond its size limit."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 413
    reason = "PAYLOAD_TOO_LARGE"


class Unavailable(DomainError):
    """A dependency is away; retry after the delay."""

    code = grpc.StatusCode.UNAVAILABLE
    http_status = 503
    reason = "DATABASE_UNAVAILABLE"


class DeadlineExceeded(DomainError):
    """Time ran out; whether the change took effect is unknown."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504
    reason = "DEADLINE_EXCEEDED"


class Internal(DomainError):
    """A defect of ours; the cause is in the log under the correlation id."""

    def __init__(self) -> None:
        super().__init__("internal error")


def to_status(err: DomainError, correlation_id: str) -> status_pb2.Status:
    """Say an error as `google.rpc.Status` of at most 2 KiB.

    It has `ErrorInfo`, and `BadRequest` and `RetryInfo` as they apply; of the fields at fault it
    names as many as fit.
    """
    details = list(err.details)
    while True:
        status = _status(err, details, correlation_id)
        if not details or status.ByteSize() <= MAX_STATUS_BYTES:
            return status
        _shorten(details)


def _status(
    err: DomainError, details: Sequence[Violation], correlation_id: str
) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(
        reason=err.reason,
        domain=DOMAIN,
        metadata={
            **{name: _brief(value) for name, value in err.metadata.items()},
            "category": _TYPES[err.http_status][1],
            "http_status": str(err.http_status),
            "correlation_id": correlation_id,
            **({"suggestion": err.suggestion} if err.suggestion else {}),
        },
    )
    packed: list[Message] = [info]
    if details:
        packed.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=_brief(v.field), description=_brief(v.description)
                    )
                    for v in details
                ]
            )
        )
    if err.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(err.retry_after_seconds * 1000))
        packed.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=err.code.value[0], message=err.message)
    for detail in packed:
        any_ = any_pb2.Any()
        any_.Pack(detail)
        status.details.append(any_)
    return status


def to_object(err: DomainError, correlation_id: str) -> dict[str, object]:
    """Say an error as the members of the REST error object."""
    kind, category = _TYPES[err.http_status]
    body: dict[str, object] = {
        "message": err.message,
        "type": kind,
        "code": err.reason,
        "category": category,
        "status_code": err.http_status,
        "correlation_id": correlation_id,
    }
    if err.suggestion:
        body["suggestion"] = err.suggestion
    if err.details:
        body["details"] = [
            {"field": _brief(v.field), "description": _brief(v.description)} for v in err.details
        ]
    return body


def to_header(err: DomainError, correlation_id: str) -> str:
    """Say an error as one line of ASCII JSON of at most 4 KiB, with as many details as fit."""
    body = to_object(err, correlation_id)
    details = body.get("details")
    while True:
        line = json.dumps({"error": body}, ensure_ascii=True, separators=(",", ":"))
        if len(line) <= MAX_ERROR_HEADER_BYTES:
            return line
        if isinstance(details, list) and details:
            _shorten(details)
        else:
            body["message"] = str(body["message"])[:200]
            body.pop("suggestion", None)
            body.pop("details", None)
            details = None


def _shorten(details: list[Any]) -> None:
    # A part and not one at a time: there may be thousands, and each round prints all that are left.
    del details[-max(1, len(details) // 8) :]


def _brief(text: str) -> str:
    raw = text.encode(errors="replace")
    if len(raw) <= MAX_TEXT_BYTES:
        return text
    return raw[: MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…"
