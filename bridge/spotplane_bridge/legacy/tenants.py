"""Routes of tenants for administrators, and a caller's own account."""

from __future__ import annotations

from typing import Final

from spotplane_bridge.legacy.response_shapes import Shape
from spotplane_bridge.legacy.routes import LegacyRoute, route

_NOT_VALID: Final = (
    "UNAUTHORIZED",
    "INVALID_AUTH_FORMAT",
    "INVALID_TOKEN",
    "FORBIDDEN",
    "INACTIVE_CLIENT",
)

ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "8",
        "POST /api/admin/clients/create",
        "TenantService.CreateClient",
        Shape(
            success=True,
            client=Shape(id="id", name="name", token="token", status="status", email="email"),
        ),
        body=("name", "email"),
    ),
    route(
        "9",
        "DELETE /api/admin/clients/{client_id}",
        "TenantService.DeleteTenant",
        Shape(success=True, message="message"),
    ),
    route(
        "10",
        "POST /api/admin/clients/{client_id}/regenerate-token",
        "TenantService.RotateClientToken",
        Shape(success=True, token="token", message="message"),
        body=("grace_seconds",),
    ),
    route(
        "11",
        "GET /api/admin/clients/{client_id}/token",
        "TenantService.RevealClientToken",
        Shape(token="token", client_name="client_name", masked="masked"),
    ),
    route(
        "12",
        "GET /api/client/validate",
        "CallerService.ValidateCaller",
        Shape(
            valid=True,
            client_id="tenant_id",
            name="name",
            client_name="name",
            email="email",
            role="role",
        ),
        errors={code: {"valid": False} for code in _NOT_VALID},
    ),
    route(
        "X4",
        "GET /",
        "CallerService.GetServiceInfo",
        Shape(service="service", version="version", api="api"),
    ),
    route(
        "X5",
        "POST /api/tickets",
        "CallerService.MintTicket",
        Shape(
            ticket="ticket",
            url="url",
            expires_at="expire_time",
            expires_in_seconds="expires_in_seconds",
        ),
        body=("path",),
        status=201,
    ),
)
