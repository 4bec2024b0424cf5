"""Error objects of responses that the edge itself produces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# On routes to the bridge, X-Request-ID holds the client's own id only.
REQUEST_ID: Final = "%REQ(X-EDGE-REQUEST-ID?X-REQUEST-ID)%"


@dataclass(frozen=True, slots=True)
class EdgeError:
    """The constant part of an error object; it reveals nothing about the upstreams.

    Attributes:
        status: HTTP status.
        type: As in the contract's table.
        category: As in the contract's table.
        code: A reason of `error_reason.proto`.
        message: Human-readable text.
        outside: Envoy produces it outside of transcoded routes too.
    """

    status: int
    type: str
    category: str
    code: str
    message: str
    outside: bool = False


# One per status that Envoy, or gRPC below it, can produce on its own. Any other 4xx is reported
# as 400 and any other 5xx as 500.
EDGE_ERRORS: Final = (
    EdgeError(
        400,
        "invalid_request_error",
        "validation",
        "INVALID_FIELD",
        "the request cannot be read",
        True,
    ),
    EdgeError(
        401, "authentication_error", "authentication", "API_KEY_INVALID", "invalid credentials"
    ),
    EdgeError(403, "permission_error", "authorization", "SCOPE_FORBIDDEN", "not allowed"),
    EdgeError(404, "not_found_error", "not_found", "ROUTE_NOT_FOUND", "no such route", True),
    EdgeError(
        408, "timeout_error", "timeout", "DEADLINE_EXCEEDED", "the request came in too slowly", True
    ),
    EdgeError(409, "conflict_error", "conflict", "CONFLICT", "retry all of it"),
    EdgeError(
        413,
        "invalid_request_error",
        "validation",
        "PAYLOAD_TOO_LARGE",
        "the request body is too large",
        True,
    ),
    EdgeError(
        415,
        "invalid_request_error",
        "validation",
        "UNSUPPORTED_MEDIA_TYPE",
        "the body must be application/json",
    ),
    EdgeError(429, "rate_limit_error", "rate_limit", "RATE_LIMIT_EXCEEDED", "too many requests"),
    EdgeError(
        431,
        "invalid_request_error",
        "validation",
        "PAYLOAD_TOO_LARGE",
        "the request headers are too large",
        True,
    ),
    EdgeError(500, "internal_error", "server", "INTERNAL", "internal error", True),
    EdgeError(501, "unavailable_error", "service_unavailable", "UNIMPLEMENTED", "not implemented"),
    EdgeError(
        503,
        "unavailable_error",
        "service_unavailable",
        "SERVICE_UNAVAILABLE",
        "the control plane cannot be reached; retry",
        True,
    ),
    EdgeError(504, "timeout_error", "timeout", "DEADLINE_EXCEEDED", "the deadline passed", True),
)


def lua_table() -> str:
    """Return the errors as a Lua table constructor, keyed by status."""
    rows = [
        f'  [{e.status}] = {{ type = "{e.type}", category = "{e.category}", '
        f'code = "{e.code}", message = "{e.message}" }},'
        for e in EDGE_ERRORS
    ]
    return "\n".join(["{", *rows, "}"])


def json_format(error: EdgeError) -> dict[str, object]:
    """Return an error object in Envoy's substitution format; the correlation id is variable."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "code": error.code,
            "category": error.category,
            "status_code": error.status,
            "correlation_id": REQUEST_ID,
        }
    }
