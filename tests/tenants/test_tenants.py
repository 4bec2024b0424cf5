"""TenantService: every method, good and refused."""

from __future__ import annotations

from tests.support.plane import Plane


async def test_a_new_tenants_key_works_at_once(plane: Plane) -> None:
    """A tenant and its key are made, and the key proves the tenant."""
    tenant = await plane.tenant()
    assert tenant.key.startswith("sp_live_")
