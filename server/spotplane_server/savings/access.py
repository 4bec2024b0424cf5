"""Whether there is anybody whose figures could be shown."""

from __future__ import annotations

from typing import Final

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.tenants.errors import TenantNotFound

TENANT_EXISTS: Final = """
    SELECT EXISTS (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL)
"""


async def check(conn: Conn, tenant_id: TenantId) -> None:
    """Make sure that there is such a tenant.

    Raises:
        TenantNotFound: There is none, or it is deleted.
    """
    if not await conn.fetchval(TENANT_EXISTS, tenant_id):
        raise TenantNotFound(tenant_id)
