"""Whose figures a caller may see."""

from __future__ import annotations

from typing import Final

from spotplane_server.kernel import wire
from spotplane_server.kernel.calls import Caller, TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.tenants.errors import TenantNotFound

TENANT_EXISTS: Final = """
    SELECT EXISTS (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL)
"""


def tenant(caller: Caller, text: str) -> TenantId:
    """Read the tenant that a call is about.

    Raises:
        Invalid: It is no UUID. TenantNotFound: It is not the caller's.
    """
    found = TenantId(wire.uuid(text, "tenant_id", "tenant ID"))
    if caller.tenant_id is not None and caller.tenant_id != found:
        raise TenantNotFound(found)
    return found


async def check(conn: Conn, tenant_id: TenantId) -> None:
    """Make sure that there is such a tenant.

    Raises:
        TenantNotFound: There is none, or it is deleted.
    """
    if not await conn.fetchval(TENANT_EXISTS, tenant_id):
        raise TenantNotFound(tenant_id)
