"""The error format of `/api/**`, for existing clients."""

from __future__ import annotations

import pytest
from spotplane_bridge.errors import ErrorFormat, Failure, error_format_of


@pytest.mark.parametrize(
    ("status", "code", "fleet_status", "fleet_code"),
    [
        (401, "API_KEY_MISSING", 401, "UNAUTHORIZED"),
        (401, "ADMIN_TOKEN_MISSING", 401, "UNAUTHORIZED"),
        (401, "API_KEY_EXPIRED", 401, "INVALID_TOKEN"),
        (403, "TENANT_SUSPENDED", 403, "INACTIVE_CLIENT"),
        (403, "ROLE_FORBIDDEN", 403, "FORBIDDEN"),
        (404, "REPLICA_NOT_FOUND", 404, "NOT_FOUND"),
        (400, "MISSING_FIELD", 400, "VALIDATION_ERROR"),
        (422, "SEMANTIC", 400, "VALIDATION_ERROR"),
        (409, "REPLICA_NOT_PROMOTABLE", 400, "REPLICA_NOT_PROMOTABLE"),
        (409, "SWITCH_IN_PROGRESS", 409, "SWITCH_IN_PROGRESS"),
        (409, "CONFLICT", 409, "CONFLICT"),
        (429, "ADMIN_RATE_LIMIT", 429, "RATE_LIMIT_EXCEEDED"),
        (429, "QUOTA_EXCEEDED", 429, "QUOTA_EXCEEDED"),
        (503, "DATABASE_UNAVAILABLE", 503, "SERVICE_UNAVAILABLE"),
        (500, "INTERNAL", 500, "SERVER_ERROR"),
        (404, "ROUTE_NOT_FOUND", 404, "ROUTE_NOT_FOUND"),
    ],
)
def test_reasons_have_the_codes_that_clients_know(
    status: int, code: str, fleet_status: int, fleet_code: str
) -> None:
    """One catalogue of reasons, two spellings."""
    failure = Failure(status, code, "text")
    assert failure.status_in(ErrorFormat.LEGACY) == fleet_status
    assert failure.status_in(ErrorFormat.CANONICAL) == status
    assert failure.body(ErrorFormat.LEGACY, "c")["code"] == fleet_code
    assert failure.body(ErrorFormat.CANONICAL, "c")["error"]["code"] == code


def test_the_fleets_error_has_all_its_members() -> None:
    """Texts that agents compare, and details under the names they know."""
    failure = Failure(
        401, "API_KEY_INVALID", "invalid API key", [{"field": "f", "description": "d"}], "try"
    )
    assert failure.body(ErrorFormat.LEGACY, "c-1") == {
        "status": "error",
        "error": "Invalid client token",
        "data": None,
        "code": "INVALID_TOKEN",
        "correlation_id": "c-1",
        "details": [{"field": "f", "message": "d"}],
        "hint": "try",
    }


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("/api/agents/register", ErrorFormat.LEGACY),
        ("/api/v1/admin/models", ErrorFormat.CANONICAL),
        ("/admin/tenants", ErrorFormat.CANONICAL),
        ("/v1/agents", ErrorFormat.CANONICAL),
        ("/apis", ErrorFormat.CANONICAL),
    ],
)
def test_a_path_determines_the_error_format(path: str, family: ErrorFormat) -> None:
    assert error_format_of(path) is family
