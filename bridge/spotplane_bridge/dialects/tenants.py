"""Clients, as administrators of the field manage them, and what a caller may know of itself."""

from __future__ import annotations

from typing import Final

from spotplane_bridge.dialects.routes import DialectRoute, route
from spotplane_bridge.dialects.shapes import Shape

ROUTES: Final[tuple[DialectRoute, ...]] = (
    route(
        "9",
        "DELETE /api/admin/clients/{client_id}",
        "TenantService.DeleteTenant",
        Shape(success=True, message="message"),
    ),
)
