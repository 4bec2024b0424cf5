"""Tenant scope: determines the tenant of a request and checks that it exists.

A caller may name a tenant; for tenant and agent credentials the name must be the credential's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from google.protobuf.message import Message

from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Forbidden, NotFound
from spotplane_server.kernel.request_context import Caller, TenantId

if TYPE_CHECKING:
    from spotplane_server.kernel.db.database import Conn

TENANT_EXISTS: Final = "SELECT EXISTS (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL)"

# A share lock on the row conflicts with the lock that deletion takes. PostgreSQL grants it ahead of
# a waiting exclusive lock, though: eight registering clients delayed a deletion by 5 s. The
# advisory lock, which is granted in order, comes first. The row is read again after a wait, so a
# tenant that was deleted meanwhile is not found.
SHARE_LIVE_TENANT: Final = """
    WITH turn AS MATERIALIZED (
        SELECT pg_advisory_xact_lock_shared(hashtextextended($1::uuid::text, 0)))
    SELECT t.id
      FROM turn, tenants t
     WHERE t.id = $1 AND t.deleted_at IS NULL
       FOR SHARE OF t
"""


class TenantMismatch(Forbidden):
    """The request claims a tenant other than the caller's."""

    reason = "TENANT_MISMATCH"


class TenantNotFound(NotFound):
    """There is no such tenant."""

    reason = "TENANT_NOT_FOUND"

    def __init__(self, tenant_id: UUID) -> None:
        super().__init__("tenant not found", tenant_id=str(tenant_id))


def tenant(caller: Caller, request: Message) -> TenantId | None:
    """The tenant that a call is about: the caller's, or for administrators the claimed one, if any.

    Raises:
        Invalid: `tenant_id` is no UUID. TenantMismatch: It is not the caller's.
    """
    claim = wire.optional_uuid(request, "tenant_id", "tenant ID")
    if caller.tenant_id is None:
        return None if claim is None else TenantId(claim)
    if claim is not None and claim != caller.tenant_id:
        raise TenantMismatch("tenant_id is not the caller's tenant")
    return caller.tenant_id


def required_tenant(caller: Caller, request: Message) -> TenantId:
    """The same, where administrators must claim one.

    Raises:
        Invalid: They did not. TenantMismatch: It is not the caller's.
    """
    found = tenant(caller, request)
    if found is None:
        raise wire.missing("tenant_id")
    return found


async def check_tenant_exists(conn: Conn, tenant_id: TenantId) -> None:
    """Check that a tenant exists.

    Raises:
        TenantNotFound: It does not, or it is deleted.
    """
    if not await conn.fetchval(TENANT_EXISTS, tenant_id):
        raise TenantNotFound(tenant_id)


async def hold_tenant(conn: Conn, tenant_id: TenantId) -> None:
    """Keep a tenant from being deleted until the transaction ends.

    Call it before anything is created for the tenant and before any other lock is taken. Without
    it, a row that is committed after the deletion has looked for rows outlives its tenant.

    Raises:
        TenantNotFound: There is no such tenant, or it is deleted.
    """
    if await conn.fetchval(SHARE_LIVE_TENANT, tenant_id) is None:
        raise TenantNotFound(tenant_id)
