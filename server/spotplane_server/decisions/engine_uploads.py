"""Uploading engines and changing which one is live; whatever fails leaves the live one as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from spotplane_server import audit, events
from spotplane_server.decisions import engine_uploads_store, errors, shadow, uploads
from spotplane_server.decisions.engine import Engine
from spotplane_server.decisions.engine_registry import Panel, kind_of
from spotplane_server.decisions.engine_uploads_store import Content, Kind, Session
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.request_context import Call


@dataclass(frozen=True, slots=True)
class Named:
    """What an uploader calls a session; None for what its files say."""

    name: str | None = None
    version: str | None = None
    model_type: str | None = None


class Sessions:
    """What may be done with uploaded engines."""

    def __init__(self, db: Database, clock: Clock, panel: Panel) -> None:
        self._db = db
        self._clock = clock
        self._panel = panel

    async def upload(self, call: Call, kind: Kind, files: Sequence[Content], named: Named) -> UUID:
        """Keep files as a session, once they are known to load.

        Raises:
            MalformedModel: They do not.
        """
        name, version = uploads.names_of(files)
        name, version = named.name or name, named.version or version
        await uploads.close(await uploads.build(name, version, files))
        session_id, now = uuid4(), self._clock.now()
        told = {
            "session_id": str(session_id),
            "kind": kind,
            "name": name,
            "version": version,
            "files": [file.name for file in files],
            "sha256": [file.sha256.hex() for file in files],
        }
        async with self._db.transaction(ALL_TENANTS) as conn:
            await engine_uploads_store.insert(
                conn,
                session_id,
                kind,
                files,
                name=name,
                version=version,
                model_type=named.model_type,
                created_by=call.caller.name,
                now=now,
            )
            await _tell(conn, call, "upload", "ml_models.uploaded", session_id, told, now)
        return session_id

    async def activate(self, call: Call, session_id: UUID, *, force: bool) -> Session:
        """Make a session live, once it has stood its evaluation in shadow; `seat` loads it.

        Raises:
            SessionNotFound: There is none. MalformedModel: It does not load.
            ShadowFailed: It fails, is late, or switches too often.
        """
        async with self._db.connection(ALL_TENANTS) as conn:
            session = await engine_uploads_store.find(conn, session_id)
            if session is None:
                raise errors.SessionNotFound
            if session.role == "live":
                return session
            files = [file async for file in engine_uploads_store.contents(conn, session_id)]
        engine = await uploads.build(session.name, session.version, files)
        try:
            await self._stand_shadow(session, engine, files, force=force)
        finally:
            await uploads.close(engine)
        now = self._clock.now()
        kind = "decision_engine.updated" if session.kind == "engine" else "ml_models.activated"
        async with self._db.transaction(ALL_TENANTS) as conn:
            await engine_uploads_store.lock_state(conn)
            former = await engine_uploads_store.find_role(conn, "live")
            if former is None or former.id != session_id:
                fallback = former.id if former else None
                await engine_uploads_store.set_roles(conn, session_id, fallback, now)
                await engine_uploads_store.set_fault(conn, session_id, None)
                told = _described(session) | {"former_session_id": str(fallback or "")}
                await _tell(conn, call, "activate", kind, session_id, told, now)
        return session

    async def swap(self, call: Call) -> Session:
        """Make the fallback live and the live one the fallback; `seat` loads it.

        Raises:
            SessionNotFound: There is no fallback.
        """
        now = self._clock.now()
        async with self._db.transaction(ALL_TENANTS) as conn:
            await engine_uploads_store.lock_state(conn)
            live = await engine_uploads_store.find_role(conn, "live")
            fallback = await engine_uploads_store.find_role(conn, "fallback")
            if fallback is None:
                raise errors.SessionNotFound("there is no fallback session")
            await engine_uploads_store.set_roles(conn, fallback.id, live.id if live else None, now)
            told = _described(fallback) | {"former_session_id": str(live.id) if live else ""}
            await _tell(conn, call, "fallback", "ml_models.rollback", fallback.id, told, now)
        return fallback

    async def _stand_shadow(
        self, session: Session, engine: Engine, files: list[Content], *, force: bool
    ) -> None:
        live, now = self._panel.judge.seat, self._clock.now()
        result = await shadow.evaluate(self._db, engine, kind_of(files), live, now)
        async with self._db.write(ALL_TENANTS) as conn:
            await engine_uploads_store.set_shadow(conn, session.id, result.to_json())
        why = shadow.fault(result, force=force)
        if why is not None:
            raise errors.ShadowFailed(why, session_id=str(session.id))

    async def seat(self, session_id: UUID) -> Session:
        """Load a session that was made live, here at once and elsewhere soon.

        Raises:
            MalformedModel: It does not load here, and was rolled back.
        """
        await self._panel.refresh()
        self._panel.tell()
        async with self._db.connection(ALL_TENANTS) as conn:
            session = await engine_uploads_store.find(conn, session_id)
        if session is None:
            raise errors.SessionNotFound
        if session.role != "live" and session.fault is not None:
            raise errors.MalformedModel(session.fault)
        return session


def _described(session: Session) -> dict[str, Any]:
    return {
        "session_id": str(session.id),
        "kind": session.kind,
        "name": session.name,
        "version": session.version,
    }


async def _tell(
    conn: Conn,
    call: Call,
    action: str,
    kind: str,
    session_id: UUID,
    told: dict[str, Any],
    now: datetime,
) -> None:
    change = audit.Change(f"engine_session.{action}", "engine_session", str(session_id), after=told)
    await audit.record(conn, call, change, now)
    await events.append(conn, events.Event(kind, str(session_id), told), now)
