"""Letters: queued with their cause, sent by the operator's server, tried until it takes them."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import structlog

from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.request_context import TenantId

log = structlog.get_logger(__name__)

BATCH: Final = 20
MOST_ATTEMPTS: Final = 8
TIMEOUT_SECONDS: Final = 20.0
# While one process sends a letter, no other does; one that dies leaves it to the next run after.
CLAIM: Final = timedelta(minutes=2)

INSERT_EMAIL: Final = """
    INSERT INTO emails (tenant_id, id, recipient, subject, body, created_at, next_attempt_at)
    VALUES ($1, $2, $3, $4, $5, $6, $6)
"""

CLAIM_EMAILS: Final = """
    UPDATE emails
       SET attempts = attempts + 1, next_attempt_at = $2
     WHERE (tenant_id, id) IN (SELECT tenant_id, id
                                 FROM emails
                                WHERE sent_at IS NULL AND failure IS NULL AND next_attempt_at <= $1
                                ORDER BY next_attempt_at
                                LIMIT $3
                                  FOR UPDATE SKIP LOCKED)
    RETURNING tenant_id, id, recipient, subject, body, attempts
"""

MARK_SENT: Final = """
    UPDATE emails SET sent_at = $3 WHERE tenant_id = $1 AND id = $2
"""

MARK_REFUSED: Final = """
    UPDATE emails
       SET next_attempt_at = $3, failure = $4
     WHERE tenant_id = $1 AND id = $2
"""


@dataclass(frozen=True, slots=True)
class Email:
    """One letter, claimed for sending."""

    tenant_id: UUID
    id: UUID
    recipient: str
    subject: str
    body: str
    attempts: int


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where letters go.

    Attributes:
        tls: ``implicit`` (smtps), ``starttls`` or ``none``.
        sender: Address that letters come from.
    """

    host: str
    port: int
    tls: str
    user: str | None
    password: str | None
    sender: str

    @classmethod
    def parse(cls, url: str, sender: str) -> MailServer:
        """Read ``smtp://[user:password@]host[:port]`` (STARTTLS), ``smtps://`` or ``smtp+plain://``.

        Raises:
            ValueError: It is none of these, or the sender is no address.
        """
        parts = urlsplit(url)
        modes = {"smtp": ("starttls", 587), "smtps": ("implicit", 465), "smtp+plain": ("none", 25)}
        if parts.scheme not in modes or not parts.hostname:
            raise ValueError("must be smtp://, smtps:// or smtp+plain:// and a host")
        if "@" not in sender:
            raise ValueError("the sender must be an e-mail address")
        tls, port = modes[parts.scheme]
        return cls(
            parts.hostname,
            parts.port or port,
            tls,
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else None,
            sender,
        )

    def send(self, email: Email) -> None:
        """Hand a letter over; blocks.

        Raises:
            OSError, smtplib.SMTPException: It was not taken.
        """
        letter = EmailMessage()
        letter["From"], letter["To"] = self.sender, email.recipient
        letter["Subject"] = email.subject
        # A letter that is sent twice, after a crash, is the same letter.
        letter["Message-ID"] = f"<{email.id}@{self.sender.rpartition('@')[2]}>"
        letter.set_content(email.body)
        kind = smtplib.SMTP_SSL if self.tls == "implicit" else smtplib.SMTP
        with kind(self.host, self.port, timeout=TIMEOUT_SECONDS) as server:
            if self.tls == "starttls":
                server.starttls(context=ssl.create_default_context())
            if self.user is not None:
                server.login(self.user, self.password or "")
            server.send_message(letter)


def reachable(address: str) -> bool:
    """Whether an address may be somebody's; one made up for a client without any never is."""
    return not address.lower().endswith("@example.com")


async def queue(
    conn: Conn, tenant_id: TenantId, recipient: str, subject: str, body: str, now: datetime
) -> None:
    """Queue a letter in the transaction of its cause."""
    await conn.execute(INSERT_EMAIL, tenant_id, uuid4(), recipient, subject, body, now)


class MailJob:
    """Sends what is queued; waits twice as long after each failure and gives up after eight."""

    name = "mail"
    period = timedelta(seconds=5)
    singleton = True

    def __init__(self, db: Database, server: MailServer) -> None:
        self._db = db
        self._server = server

    async def run_once(self, now: datetime) -> int:
        """Send what is due; answer how many letters were taken."""
        async with self._db.connection(ALL_TENANTS) as conn:
            rows = await conn.fetch(CLAIM_EMAILS, now, now + CLAIM, BATCH)
        sent = 0
        for row in rows:
            sent += await self._send(Email(**row), now)
        return sent

    async def _send(self, email: Email, now: datetime) -> bool:
        try:
            await asyncio.to_thread(self._server.send, email)
        except (OSError, smtplib.SMTPException) as err:
            log.warning("mail_refused", attempt=email.attempts, error=type(err).__name__)
            gave_up = type(err).__name__ if email.attempts >= MOST_ATTEMPTS else None
            again = now + timedelta(minutes=2**email.attempts)
            async with self._db.connection(ALL_TENANTS) as conn:
                await conn.execute(MARK_REFUSED, email.tenant_id, email.id, again, gave_up)
            return False
        async with self._db.connection(ALL_TENANTS) as conn:
            await conn.execute(MARK_SENT, email.tenant_id, email.id, now)
        return True
