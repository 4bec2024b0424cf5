"""Recording a switch: its row with prices, and its event, in the transaction of its cause."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from uuid import UUID, uuid4

from spotplane_server import events
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.switches import rules, store
from spotplane_server.switches.rules import NOTHING_TOLD, Side, Told


async def record(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    *,
    old: Side | None,
    new: Side | None,
    cause: str,
    now: datetime,
    trigger: str | None = None,
    command_id: UUID | None = None,
    told: Told = NOTHING_TOLD,
    reported: bool = False,
    error: str | None = None,
    switch_id: UUID | None = None,
    owed: bool = True,
) -> UUID:
    """Write down that an agent's primary has changed, or with ``error`` that it could not.

    Args:
        conn: In a transaction that holds the agent's row.
        tenant_id: Whose agent it is.
        agent_id: The agent.
        old: What it left; None when nothing served.
        new: What serves since; for a failure what should have.
        cause: What moved it: switch, user, registration, or a kind of failover.
        now: When.
        trigger: The command's, if there was one.
        command_id: The command, if there was one.
        told: What the agent says of it; prices that it does not know are those of the market.
        reported: Whether the agent has said all that it will.
        error: Why it failed; None for success.
        switch_id: What the switch is to be called; a fresh id when None.
        owed: Whether the instance that was left will say goodbye in the agent's name.

    Returns:
        The switch's id.
    """
    told = await _priced(conn, old, new, told, now)
    row = store.Row(
        switch_id or uuid4(),
        agent_id,
        command_id,
        old,
        new,
        rules.trigger_of(cause, trigger),
        cause,
        error is None,
        error,
        told,
        reported,
    )
    left = old is not None and new is not None and old.instance_id != new.instance_id
    name = await store.insert(conn, tenant_id, row, owed=owed and left and error is None, now=now)
    await events.append(conn, _event(tenant_id, row, name), now)
    return row.id


async def _priced(
    conn: Conn, old: Side | None, new: Side | None, told: Told, now: datetime
) -> Told:
    at = told.initiated_at or now
    if told.old_price_nanousd is None and old is not None:
        told = replace(told, old_price_nanousd=await store.price_at(conn, old, at))
    if told.new_price_nanousd is None and new is not None:
        told = replace(told, new_price_nanousd=await store.price_at(conn, new, at))
    return told


def _event(tenant_id: TenantId, row: store.Row, name: str | None) -> events.Event:
    old, new, told = row.old, row.new, row.told
    return events.Event(
        "switch.completed" if row.success else "switch.failed",
        str(row.agent_id),
        {
            "switch_id": str(row.id),
            "agent_id": str(row.agent_id),
            "agent_name": name,
            "instance_id": new.instance_id if new else old and old.instance_id,
            "old_instance_id": old and old.instance_id,
            "new_instance_id": new and new.instance_id,
            "old_mode": old and old.mode,
            "new_mode": new and new.mode,
            "old_pool_id": old and old.pool_id,
            "new_pool_id": new and new.pool_id,
            "trigger": row.trigger,
            "cause": row.cause,
            "command_id": row.command_id and str(row.command_id),
            "old_price_nanousd": told.old_price_nanousd,
            "new_price_nanousd": told.new_price_nanousd,
            "savings_impact_nanousd": rules.impact(told.old_price_nanousd, told.new_price_nanousd),
            "downtime_seconds": rules.downtime_seconds(told),
            "message": row.error_message,
        },
        tenant_id,
    )
