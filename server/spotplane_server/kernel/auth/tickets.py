"""Tickets: single-use credentials for one path, for browsers that cannot send headers.

A ticket is signed, so that a made-up one costs no look-up, and is a row, so that it works once on
whatever server. It stands for the credential that minted it and dies with that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from spotplane_server.kernel.db import quotas
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.errors import Unauthenticated
from spotplane_server.kernel.request_context import Caller

VALID: Final = timedelta(seconds=60)
# Per tenant at a time, used ones included: each browser page that is opened takes a few.
MAX_TICKETS: Final = 1000
NO_TENANT: Final = UUID(int=0)
_MAC_BYTES: Final = 16
_ID_BYTES: Final = 16

COUNT_TICKETS: Final = """
    SELECT count(*)
      FROM tickets
     WHERE tenant_id = $1
       AND expires_at > $2
"""

INSERT_TICKET: Final = """
    INSERT INTO tickets (tenant_id, id, kind, credential_hash, path, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6)
"""

USE_TICKET: Final = """
    UPDATE tickets
       SET used_at = $4
     WHERE tenant_id = $1
       AND id = $2
       AND path = $3
       AND used_at IS NULL
       AND expires_at > $4
    RETURNING kind, credential_hash
"""


class TicketInvalid(Unauthenticated):
    """The ticket is of another path, used, expired, or none at all."""

    reason = "TICKET_INVALID"

    def __init__(self) -> None:
        super().__init__("the ticket is not valid here, or not any more")


@dataclass(frozen=True, slots=True)
class Bearer:
    """The credential that a ticket stands for."""

    kind: str
    hashed: bytes


class Tickets:
    """Mints and uses tickets.

    Args:
        db: Where they are.
        secret: Shared by all servers.
    """

    def __init__(self, db: Database, secret: bytes) -> None:
        self._db = db
        self._secret = secret

    async def mint(
        self, conn: Conn, caller: Caller, credential_hash: bytes, path: str, *, now: datetime
    ) -> str:
        """Make a ticket for a path with its query, in a transaction.

        Raises:
            QuotaExceeded: The tenant has minted too many in the time that one is valid.
        """
        tenant_id, ticket_id = caller.tenant_id or NO_TENANT, uuid4()
        await quotas.admit(
            conn,
            tenant_id,
            "tickets",
            MAX_TICKETS,
            lambda: _count(conn, tenant_id, now),
        )
        await conn.execute(
            INSERT_TICKET, tenant_id, ticket_id, caller.kind, credential_hash, path, now + VALID
        )
        body = tenant_id.bytes + ticket_id.bytes
        return base64.urlsafe_b64encode(body + self._mac(body)).decode().rstrip("=")

    async def use(self, ticket: str, path: str, *, now: datetime) -> Bearer:
        """Use a ticket up.

        Raises:
            TicketInvalid: It cannot be used for this path now.
        """
        body = self._body(ticket)
        tenant_id, ticket_id = UUID(bytes=body[:_ID_BYTES]), UUID(bytes=body[_ID_BYTES:])
        async with self._db.connection(ALL_TENANTS) as conn:
            row = await conn.fetchrow(USE_TICKET, tenant_id, ticket_id, path, now)
        if row is None:
            raise TicketInvalid
        return Bearer(row["kind"], row["credential_hash"])

    def _body(self, ticket: str) -> bytes:
        try:
            data = base64.b64decode(ticket + "=" * (-len(ticket) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError) as err:
            raise TicketInvalid from err
        body, mac = data[: 2 * _ID_BYTES], data[2 * _ID_BYTES :]
        if len(body) != 2 * _ID_BYTES or not hmac.compare_digest(mac, self._mac(body)):
            raise TicketInvalid
        return body

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, hashlib.sha256)[:_MAC_BYTES]


async def _count(conn: Conn, tenant_id: UUID, now: datetime) -> int:
    count: int = await conn.fetchval(COUNT_TICKETS, tenant_id, now)
    return count
