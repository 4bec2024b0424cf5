"""Audit entries of changes made by settings or directly on the database host."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from spotplane_server.audit.store import Change, record
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import Call, Caller


async def record_own(conn: Conn, actor: str, change: Change, now: datetime) -> None:
    """Append a row of the system's own.

    Args:
        conn: In the change's transaction.
        actor: ``configuration`` or ``console``.
        change: What was changed.
        now: When.
    """
    await record(conn, Call(actor, str(uuid4()), Caller("system", "", actor)), change, now)


def credential_put(
    name: str,
    scopes: Sequence[str],
    rate_limit_rpm: int,
    cidrs: Sequence[object] = (),
    expires_at: datetime | None = None,
) -> Change:
    """An administrator's credential was made, or its token replaced."""
    after = {
        "scopes": list(scopes),
        "rate_limit_rpm": rate_limit_rpm,
        "cidrs": [str(network) for network in cidrs],
        "expires_at": expires_at,
    }
    return Change("admin_credential.put", "admin_credential", name, after=after)


def credential_revoked(name: str) -> Change:
    """An administrator's credential was ended."""
    return Change("admin_credential.revoke", "admin_credential", name, after={"revoked": True})


async def credential_configured(
    conn: Conn, name: str, scopes: Sequence[str], rate_limit_rpm: int, now: datetime
) -> None:
    """Say that the settings made an administrator's credential new, or changed it."""
    await record_own(conn, "configuration", credential_put(name, scopes, rate_limit_rpm), now)
