"""Opens connections to PostgreSQL with a timeout on every wait.

Three clocks bound a wait: PostgreSQL's limits on statements, locks and transactions, so that a
server that was paused or cut off holds nothing for long; the client's limit on an answer; and TCP's
own, for a peer that is gone without a word.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

import asyncpg

if TYPE_CHECKING:
    _Base = asyncpg.Connection[asyncpg.Record]
else:
    _Base = asyncpg.Connection

# Migrations and statements use what 16 has, as grants with options and `any_value`.
OLDEST: Final = (16, 0)
_TOO_OLD: Final = f"Spotplane needs PostgreSQL {OLDEST[0]} or newer"
APP_ROLE: Final = "spotplane_app"

STATEMENT_SECONDS: Final = 30.0
# PostgreSQL's own limit comes first, so that a slow statement ends with its precise error.
ANSWER_SECONDS: Final = STATEMENT_SECONDS + 2.0
CONNECT_SECONDS: Final = 5.0
# A row that is locked for longer belongs to a stuck transaction, or to one that is too large.
LOCK_SECONDS: Final = 10.0
# A server never waits for anything but PostgreSQL inside a transaction. One that stops between two
# statements is paused or cut off: its locks, and the events behind it, must not wait for it.
IDLE_IN_TRANSACTION_SECONDS: Final = 3.0
# Two of the longest statements; events wait for the oldest writing transaction.
TRANSACTION_SECONDS: Final = 2 * STATEMENT_SECONDS
_TRANSACTION_TIMEOUT_SINCE: Final = (17, 0)
# A peer that is gone is noticed after 5 + 3 * 2 s when idle, after 10 s with bytes under way.
KEEPALIVE_IDLE_SECONDS: Final = 5
KEEPALIVE_INTERVAL_SECONDS: Final = 2
KEEPALIVE_PROBES: Final = 3
UNACKNOWLEDGED_SECONDS: Final = 10
# How often PostgreSQL looks whether the client of a running statement is still there.
CLIENT_CHECK_SECONDS: Final = 2


class DatabaseTooOld(RuntimeError):
    """PostgreSQL is older than this program needs."""


class ScopedConnection(_Base):
    """A connection that remembers its scope, so that only a change of it costs a round trip.

    Attributes:
        scope: The tenant that its session is limited to; empty when unknown.
        loans: How often it was lent.
    """

    __slots__ = ("loans", "scope")

    scope: str
    loans: int
    _transport: asyncio.Transport

    def bound_silence(self) -> None:
        """Have the kernel give the connection up when the peer is gone."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family == socket.AF_UNIX:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS),
            (socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS),
            (socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
            (socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_SECONDS * 1000),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def connect(
    url: str,
    application_name: str,
    *,
    timeout: float = CONNECT_SECONDS,
    role: str = APP_ROLE,
    statement_seconds: float = STATEMENT_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
) -> ScopedConnection:
    """Connect under the plain role, or another.

    Args:
        url: ``postgresql://…``.
        application_name: As PostgreSQL lists it.
        role: To work under; ``none`` for the login itself.
        timeout: Longest wait for the connection, in seconds.
        statement_seconds: Longest run of a statement.
        answer_seconds: Longest wait for an answer.

    Raises:
        OSError, asyncpg.PostgresError, TimeoutError: It cannot be reached or refuses.
        DatabaseTooOld: It is older than this program needs.
    """
    conn = await _open(
        url,
        connection_class=ScopedConnection,
        timeout=timeout,
        command_timeout=answer_seconds,
        server_settings={
            "role": role,
            "application_name": application_name,
            "statement_timeout": _milliseconds(statement_seconds),
            "lock_timeout": _milliseconds(LOCK_SECONDS),
            "idle_in_transaction_session_timeout": _milliseconds(IDLE_IN_TRANSACTION_SECONDS),
            "tcp_keepalives_idle": str(KEEPALIVE_IDLE_SECONDS),
            "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL_SECONDS),
            "tcp_keepalives_count": str(KEEPALIVE_PROBES),
            "tcp_user_timeout": _milliseconds(UNACKNOWLEDGED_SECONDS),
            "client_connection_check_interval": _milliseconds(CLIENT_CHECK_SECONDS),
            # Our statements are short; compiling them costs more than it saves.
            "jit": "off",
        },
    )
    try:
        require_version(conn)
    except DatabaseTooOld:
        await conn.close()
        raise
    conn.scope, conn.loans = "", 0
    conn.bound_silence()
    if conn.get_server_version() >= _TRANSACTION_TIMEOUT_SINCE:
        await conn.execute(f"SET transaction_timeout = {_milliseconds(TRANSACTION_SECONDS)}")
    return conn


async def _open(url: str, **options: Any) -> ScopedConnection:
    try:
        conn: ScopedConnection = await asyncpg.connect(url, **options)
    except asyncpg.UndefinedObjectError as err:
        # A setting that every supported version has.
        raise DatabaseTooOld(f"{_TOO_OLD}: {err}") from err
    return conn


def require_version(conn: asyncpg.Connection[asyncpg.Record]) -> None:
    """Reject a PostgreSQL that is older than this program needs.

    Raises:
        DatabaseTooOld: It is.
    """
    version = conn.get_server_version()
    if version < OLDEST:
        raise DatabaseTooOld(f"{_TOO_OLD}, not {version.major}.{version.minor}")


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
