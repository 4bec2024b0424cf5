"""How large a tenant's fleet may get: asked when a new agent or instance registers, never later."""

from __future__ import annotations

from spotplane_server.agents import errors, rules, settings_store
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn


async def admit(conn: Conn, tenant_id: TenantId, *, agents: bool = True) -> None:
    """Refuse one more agent on one more instance when that is too many.

    Switches, moves, replicas and emergencies do not ask. Call it in the transaction that registers,
    before it does.

    Args:
        conn: In that transaction; parallel ones wait here for each other.
        tenant_id: Whose fleet it is.
        agents: Whether it is an agent too, and not only an instance.

    Raises:
        QuotaExceeded: It is one too many.
    """
    quota = await settings_store.lock_quota(conn, tenant_id)
    if quota is None:
        return
    if not agents:
        quota = rules.Quota(None, quota.max_instances)
    much = rules.exceeded(quota, await settings_store.count_used(conn, tenant_id))
    if much is not None:
        what, limit, used = much
        raise errors.QuotaExceeded(
            f"the tenant may have {limit} {what} and has {used}",
            limit=str(limit),
            used=str(used),
            retry_after_seconds=3600.0,
        )
