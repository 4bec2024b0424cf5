"""Quotas of a tenant's fleet, checked when a new agent or instance registers and never later."""

from __future__ import annotations

from spotplane_server.agents import rules, settings_store
from spotplane_server.kernel.db import quotas
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId


async def admit(conn: Conn, tenant_id: TenantId, *, agents: bool = True) -> None:
    """Admit one more agent on one more instance.

    Switches, moves, replicas and emergencies are not checked. Call it in the transaction that
    registers, before it does.

    Args:
        conn: In that transaction; parallel ones wait here for each other near a limit.
        tenant_id: Whose fleet it is.
        agents: Whether it is an agent too, and not only an instance.

    Raises:
        QuotaExceeded: It is one too many.
    """
    quota = await settings_store.find_quota(conn, tenant_id)
    if agents:
        await quotas.admit(
            conn,
            tenant_id,
            "agents",
            rules.MAX_AGENTS if quota.max_agents is None else quota.max_agents,
            lambda: settings_store.count_agents(conn, tenant_id),
        )
    if quota.max_instances is not None:
        await quotas.admit(
            conn,
            tenant_id,
            "instances",
            quota.max_instances,
            lambda: settings_store.count_instances(conn, tenant_id),
        )
