"""Audit rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from spotplane_server.kernel.calls import Call
from spotplane_server.kernel.db import Conn

INSERT_AUDIT: Final = """
    INSERT INTO audit_logs (occurred_at, id, actor_type, actor_id, actor_name, action,
                            resource_type, resource_id, tenant_id, before, after, correlation_id,
                            ip, user_agent, result)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""

# Who could not prove itself is some user.
_ACTOR_TYPES: Final = {
    "admin": "admin",
    "tenant": "api_key",
    "agent": "agent",
    "system": "system",
    "anonymous": "user",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was changed.

    Attributes:
        action: E.g. ``tenant.suspend``.
        resource_type: E.g. ``tenant``.
        resource_id: Its id as text.
        tenant_id: Whose it is; None for the catalogue.
        before: Changed members as they were; no secrets, no hashes.
        after: Changed members as they are.
        result: ``failure`` for what was refused.
    """

    action: str
    resource_type: str
    resource_id: str
    tenant_id: UUID | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    result: Literal["success", "failure"] = "success"


async def record(conn: Conn, call: Call, change: Change, now: datetime) -> None:
    """Append a row; if that fails, so does the change."""
    await conn.execute(
        INSERT_AUDIT,
        now,
        uuid4(),
        _ACTOR_TYPES[call.caller.kind],
        call.caller.id,
        call.caller.name,
        change.action,
        change.resource_type,
        change.resource_id,
        change.tenant_id,
        change.before,
        change.after,
        call.correlation_id,
        call.client_ip,
        call.user_agent,
        change.result,
    )
