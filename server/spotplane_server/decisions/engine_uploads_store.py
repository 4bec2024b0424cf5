"""Uploaded engines: sessions, their files by content, and which one is live."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from spotplane_server.kernel.db.database import Conn

Kind: TypeAlias = Literal["engine", "model"]
Format: TypeAlias = Literal["onnx", "cel"]
Role: TypeAlias = Literal["live", "fallback"]

ROLES: Final[tuple[Role, ...]] = ("live", "fallback")

CHUNK_BYTES: Final = 1024 * 1024

INSERT_FILE: Final = """
    INSERT INTO engine_files (sha256, size_bytes, created_at)
    VALUES ($1, $2, $3)
    ON CONFLICT (sha256) DO NOTHING
    RETURNING sha256
"""

INSERT_CHUNK: Final = "INSERT INTO engine_file_chunks (sha256, seq, data) VALUES ($1, $2, $3)"

LIST_CHUNKS: Final = "SELECT data FROM engine_file_chunks WHERE sha256 = $1 ORDER BY seq"

INSERT_SESSION: Final = """
    INSERT INTO engine_sessions (id, kind, status, name, version, model_type, created_by,
                                 created_at)
    VALUES ($1, $2, 'uploaded', $3, $4, $5, $6, $7)
"""

INSERT_SESSION_FILE: Final = """
    INSERT INTO engine_session_files (session_id, seq, name, format, sha256)
    VALUES ($1, $2, $3, $4, $5)
"""

GET_SESSION: Final = """
    SELECT id, kind, status, role, name, version, model_type, created_by, created_at,
           activated_at, shadow, fault
      FROM engine_sessions
     WHERE id = $1
"""

FIND_ROLE: Final = """
    SELECT id, kind, status, role, name, version, model_type, created_by, created_at,
           activated_at, shadow, fault
      FROM engine_sessions
     WHERE role = $1
"""

LIST_SESSIONS: Final = """
    SELECT id, kind, status, role, name, version, model_type, created_by, created_at,
           activated_at, shadow, fault
      FROM engine_sessions
     ORDER BY created_at DESC, id
     LIMIT $1
"""

LIST_FILES: Final = """
    SELECT s.session_id, s.name, s.format, s.sha256, f.size_bytes
      FROM engine_session_files s
      JOIN engine_files f USING (sha256)
     WHERE s.session_id = ANY($1)
     ORDER BY s.session_id, s.seq
"""

COUNT_FILES: Final = "SELECT count(*) FROM engine_session_files"

SET_SHADOW: Final = "UPDATE engine_sessions SET shadow = $2 WHERE id = $1"

# Held by whoever changes roles, so that two changes come one after the other.
LOCK_STATE: Final = """
    SELECT generation, active_fallback FROM engine_state FOR UPDATE
"""

READ_STATE: Final = "SELECT generation, active_fallback FROM engine_state"

RAISE_GENERATION: Final = """
    UPDATE engine_state
       SET generation = generation + 1, active_fallback = false, updated_at = $1
    RETURNING generation
"""

SET_ACTIVE_FALLBACK: Final = """
    UPDATE engine_state
       SET active_fallback = $2, updated_at = $3
     WHERE generation = $1 AND active_fallback <> $2
"""

# Roles are unique, so they are given up before they are given again.
CLEAR_ROLES: Final = """
    UPDATE engine_sessions
       SET role = NULL, status = 'archived', archived_at = $1
     WHERE role IS NOT NULL
"""

GIVE_ROLE: Final = """
    UPDATE engine_sessions
       SET role = $2, status = 'active', archived_at = NULL,
           activated_at = CASE WHEN $2 = 'live' THEN $3 ELSE activated_at END
     WHERE id = $1
"""

SET_FAULT: Final = "UPDATE engine_sessions SET fault = $2 WHERE id = $1"

DELETE_SESSIONS: Final = """
    DELETE FROM engine_sessions
     WHERE role IS NULL
       AND coalesce(archived_at, created_at) < $1
       AND id <> coalesce((SELECT id FROM engine_sessions
                            WHERE status = 'uploaded'
                            ORDER BY created_at DESC, id
                            LIMIT 1), '00000000-0000-0000-0000-000000000000')
    RETURNING id
"""

DELETE_FILES: Final = """
    DELETE FROM engine_files f
     WHERE created_at < $1
       AND NOT EXISTS (SELECT FROM engine_session_files s WHERE s.sha256 = f.sha256)
"""


@dataclass(frozen=True, slots=True)
class Session:
    """An uploaded engine."""

    id: UUID
    kind: Kind
    status: str
    role: Role | None
    name: str
    version: str
    model_type: str | None
    created_by: str
    created_at: datetime
    activated_at: datetime | None
    shadow: dict[str, Any] | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class SessionFile:
    """A file of a session."""

    session_id: UUID
    name: str
    format: Format
    sha256: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class State:
    """What every process must have loaded, and whether the loop does with it."""

    generation: int
    active_fallback: bool


@dataclass(frozen=True, slots=True)
class Content:
    """A file's name, what it is, and its bytes."""

    name: str
    format: Format
    sha256: bytes
    data: bytes


async def put_file(conn: Conn, sha256: bytes, data: bytes, now: datetime) -> None:
    """Keep a content; one that is there already is not written again."""
    if await conn.fetchval(INSERT_FILE, sha256, len(data), now) is None:
        return
    parts = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    await conn.executemany(
        INSERT_CHUNK, [(sha256, number, part) for number, part in enumerate(parts)]
    )


async def read_file(conn: Conn, sha256: bytes) -> bytes:
    """A content; empty when it is not there."""
    return b"".join([row["data"] for row in await conn.fetch(LIST_CHUNKS, sha256)])


async def insert(
    conn: Conn,
    session_id: UUID,
    kind: Kind,
    files: Sequence[Content],
    *,
    name: str,
    version: str,
    model_type: str | None,
    created_by: str,
    now: datetime,
) -> None:
    """Add a session with its files."""
    await conn.execute(INSERT_SESSION, session_id, kind, name, version, model_type, created_by, now)
    for number, file in enumerate(files):
        await put_file(conn, file.sha256, file.data, now)
        await conn.execute(
            INSERT_SESSION_FILE, session_id, number, file.name, file.format, file.sha256
        )


async def find(conn: Conn, session_id: UUID) -> Session | None:
    """One session, None when there is none."""
    row = await conn.fetchrow(GET_SESSION, session_id)
    return Session(**row) if row else None


async def find_role(conn: Conn, role: Role) -> Session | None:
    """The live session, or the fallback; None when there is none."""
    row = await conn.fetchrow(FIND_ROLE, role)
    return Session(**row) if row else None


async def list_sessions(conn: Conn, limit: int) -> list[Session]:
    """Sessions, newest first."""
    return [Session(**row) for row in await conn.fetch(LIST_SESSIONS, limit)]


async def list_files(conn: Conn, session_ids: Sequence[UUID]) -> dict[UUID, list[SessionFile]]:
    """Files by session, in the order of their upload."""
    found: dict[UUID, list[SessionFile]] = {session_id: [] for session_id in session_ids}
    for row in await conn.fetch(LIST_FILES, list(session_ids)):
        found[row["session_id"]].append(SessionFile(**row))
    return found


async def contents(conn: Conn, session_id: UUID) -> AsyncIterator[Content]:
    """Files of a session with their bytes, in the order of their upload."""
    files = await list_files(conn, [session_id])
    for file in files[session_id]:
        data = await read_file(conn, file.sha256)
        yield Content(file.name, file.format, file.sha256, data)


async def count_files(conn: Conn) -> int:
    """Files of all sessions."""
    count: int = await conn.fetchval(COUNT_FILES)
    return count


async def set_shadow(conn: Conn, session_id: UUID, shadow: dict[str, Any]) -> None:
    """Keep what came of an evaluation."""
    await conn.execute(SET_SHADOW, session_id, shadow)


async def lock_state(conn: Conn) -> State:
    """Hold the right to change roles until the transaction ends."""
    row = await conn.fetchrow(LOCK_STATE)
    assert row is not None  # the migration inserts the one row
    return State(**row)


async def read_state(conn: Conn) -> State:
    """What every process must have loaded."""
    row = await conn.fetchrow(READ_STATE)
    assert row is not None  # as above
    return State(**row)


async def set_roles(conn: Conn, live: UUID | None, fallback: UUID | None, now: datetime) -> int:
    """Say which sessions have a role; who had one and has none now is archived.

    Returns:
        The new generation.
    """
    await conn.execute(CLEAR_ROLES, now)
    if live is not None:
        await conn.execute(GIVE_ROLE, live, "live", now)
    if fallback is not None:
        await conn.execute(GIVE_ROLE, fallback, "fallback", now)
    generation: int = await conn.fetchval(RAISE_GENERATION, now)
    return generation


async def set_fault(conn: Conn, session_id: UUID, fault: str | None) -> None:
    """Say why a session was rolled back."""
    await conn.execute(SET_FAULT, session_id, fault)


async def set_active_fallback(conn: Conn, generation: int, active: bool, now: datetime) -> bool:
    """Say whether the built-in rules stand in; False when that was said, or the engine changed."""
    done = await conn.execute(SET_ACTIVE_FALLBACK, generation, active, now)
    return bool(done == "UPDATE 1")


async def delete_old(conn: Conn, before: datetime) -> int:
    """Forget sessions without a role, but the newest uploaded one, and contents that nobody has."""
    gone = await conn.fetch(DELETE_SESSIONS, before)
    await conn.execute(DELETE_FILES, before)
    return len(gone)
