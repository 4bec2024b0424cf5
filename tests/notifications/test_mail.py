"""Letters reach a real mail server, once it is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.notifications import mail
from spotplane_server.notifications.mail import MailJob, MailServer

from tests.support.clock import FakeClock
from tests.support.plane import Plane, Tenant

LIST_EMAILS = "SELECT recipient, attempts, sent_at, failure FROM emails"


class Box(Message):
    """Keeps what arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.letters: list[Any] = []

    def handle_message(self, message: Any) -> None:
        """Take a letter."""
        self.letters.append(message)


class Postbox(Controller):
    """A mail server on a free port."""

    def _trigger_server(self) -> None:
        # The base class connects to the port it was given, which is 0.
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@pytest.fixture
async def box() -> AsyncIterator[tuple[Box, MailServer]]:
    """A mail server and how to reach it."""
    letters = Box()
    server = Postbox(letters, hostname="127.0.0.1", port=0)
    server.start()
    yield letters, MailServer.parse(f"smtp+plain://127.0.0.1:{server.port}", "plane@example.net")
    server.stop()


async def queue(db: Database, tenant: Tenant, clock: FakeClock, text: str) -> None:
    """Queue a letter."""
    async with db.transaction(ALL_TENANTS) as conn:
        owner = TenantId(UUID(tenant.id))
        await mail.queue(conn, owner, "ops@example.org", "Price alert", text, clock.now())


async def test_letter_is_sent_once(
    plane: Plane, clock: FakeClock, box: tuple[Box, MailServer]
) -> None:
    """By whoever comes first."""
    letters, server = box
    await queue(plane.db, await plane.tenant(), clock, "now $0.60/h")

    assert await MailJob(plane.db, server).run_once(clock.now()) == 1
    assert await MailJob(plane.db, server).run_once(clock.now() + timedelta(hours=1)) == 0

    (letter,) = letters.letters
    assert (letter["To"], letter["From"]) == ("ops@example.org", "plane@example.net")
    assert letter["Subject"] == "Price alert"
    assert letter.get_payload().strip() == "now $0.60/h"
    assert letter["Message-ID"].endswith("@example.net>")


async def test_absent_mail_server_delays_letters_and_then_gives_up(
    plane: Plane, clock: FakeClock, box: tuple[Box, MailServer]
) -> None:
    """Waiting twice as long each time; what the last failure was is kept."""
    letters, server = box
    away = MailServer.parse("smtp+plain://127.0.0.1:1", "plane@example.net")
    tenant = await plane.tenant()
    await queue(plane.db, tenant, clock, "late")
    await MailJob(plane.db, away).run_once(clock.now())
    assert await MailJob(plane.db, server).run_once(clock.now()) == 0
    assert await MailJob(plane.db, server).run_once(clock.now() + timedelta(minutes=3)) == 1
    assert len(letters.letters) == 1

    await queue(plane.db, tenant, clock, "never")
    for hours in range(mail.MOST_ATTEMPTS + 2):
        await MailJob(plane.db, away).run_once(clock.now() + timedelta(hours=9 * hours))

    async with plane.db.connection(ALL_TENANTS) as conn:
        rows = await conn.fetch(LIST_EMAILS)
    (given_up,) = [row for row in rows if row["sent_at"] is None]
    assert (given_up["attempts"], given_up["failure"]) == (8, "ConnectionRefusedError")


@pytest.mark.parametrize("url", ["http://mail", "smtp://", "mail.example.net"])
def test_address_of_a_mail_server_is_checked(url: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="smtp://"):
        MailServer.parse(url, "plane@example.net")


def test_made_up_addresses_are_never_mailed() -> None:
    """Those of clients that were made without one."""
    assert not mail.reachable("acme@example.com")
    assert mail.reachable("ops@acme.example.org")
