"""Signs of life without a stream: whose they are, and what they change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

from spotplane_server import events
from spotplane_server.agents import convert, errors, primary, rules, store
from spotplane_server.agents.commands import pending_launches
from spotplane_server.agents.sessions import store as store_module
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Said
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.switches import store as switches

# An instance that is not the primary is gone, and whatever it was with it.
ConfirmGone: TypeAlias = Callable[[Conn, TenantId, UUID, str, datetime], Awaitable[None]]

# `named`: the instance that speaks, by its own word or because it watches only itself.
LOAD_SPEAKER: Final = """
    SELECT a.tenant_id, a.id AS agent_id, a.status, a.enabled, a.deleted_at IS NOT NULL AS deleted,
           a.superseded_by IS NOT NULL AS superseded, p.id AS primary_id,
           named.id AS named_id, named.status AS named_status,
           EXISTS (SELECT FROM agent_commands c
                    WHERE c.tenant_id = a.tenant_id AND c.agent_id = a.id AND c.type = 'switch'
                      AND c.status IN ('leased', 'executing') AND c.instance_id = p.id) AS switching
      FROM agents a
      LEFT JOIN instances p
        ON p.tenant_id = a.tenant_id AND p.agent_id = a.id AND p.status = 'running_primary'
      LEFT JOIN instances named
        ON named.tenant_id = a.tenant_id AND named.agent_id = a.id AND named.id = coalesce($2, $3)
     WHERE a.id = $1
"""

LIST_ENDED: Final = """
    SELECT id FROM instances
     WHERE tenant_id = $1 AND agent_id = $2 AND id = ANY($3) AND status IN ('zombie', 'terminating')
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat says.

    Attributes:
        word: The agent's word for its state.
        instance_id: The instance that speaks, if it says so.
        watched: The one instance that it watches; None for none or several.
        said: What it tells of itself.
        ended: Instances that the cloud lists as terminated.
        load: Percent of CPU and of memory in use.
    """

    word: str
    instance_id: str | None
    watched: str | None
    said: Said
    ended: Sequence[str]
    load: tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose heartbeat it is, as far as the database tells."""

    tenant_id: TenantId
    agent_id: UUID
    status: str
    enabled: bool
    deleted: bool
    superseded: bool
    primary_id: str | None
    named_id: str | None
    named_status: str | None
    switching: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of a heartbeat.

    Attributes:
        tenant_id: Whose agent it is.
        follows: Whether the speaker is to follow the agent's configuration.
        moved: Whether the agent has moved by it.
    """

    tenant_id: TenantId
    follows: bool
    moved: bool = False


async def take(
    conn: Conn,
    agent_id: UUID,
    beat: Beat,
    *,
    confirm_gone: ConfirmGone,
    offline_after: timedelta,
    now: datetime,
) -> Heard:
    """Take a heartbeat down, in one transaction.

    Raises:
        AgentNotFound: There is none in the connection's scope, or it was deleted.
    """
    speaker = await _speaker(conn, agent_id, beat)
    leaves = rules.status_said(beat.word) == "offline"
    if speaker.deleted:
        if not (speaker.superseded and leaves):
            raise errors.AgentNotFound
        return Heard(speaker.tenant_id, follows=False)
    if beat.instance_id is not None or speaker.named_id is not None:
        if speaker.named_status != "running_primary":
            return await _other(conn, speaker, leaves, offline_after, now)
    elif leaves and await _owed(conn, speaker, now):
        return Heard(speaker.tenant_id, follows=False)
    await _primary(conn, speaker, beat, now)
    for ended in await _ended(conn, speaker, beat):
        await confirm_gone(conn, speaker.tenant_id, agent_id, ended, now)
    return Heard(speaker.tenant_id, follows=True)


async def _speaker(conn: Conn, agent_id: UUID, beat: Beat) -> Speaker:
    row = await conn.fetchrow(LOAD_SPEAKER, agent_id, beat.instance_id, beat.watched)
    if row is None:
        raise errors.AgentNotFound
    return Speaker(**row)


async def _ended(conn: Conn, speaker: Speaker, beat: Beat) -> list[str]:
    """Zombies that the cloud lists as terminated."""
    if not beat.ended:
        return []
    rows = await conn.fetch(LIST_ENDED, speaker.tenant_id, speaker.agent_id, list(beat.ended))
    return [row["id"] for row in rows]


async def _other(
    conn: Conn, speaker: Speaker, leaves: bool, offline_after: timedelta, now: datetime
) -> Heard:
    """A heartbeat of an instance that does not serve: a sign of its own life at most."""
    nothing = Heard(speaker.tenant_id, follows=False)
    if speaker.named_id is None:
        return nothing
    moved = False
    if speaker.named_status == "launching" and not leaves:
        moved = await _promote_candidate(conn, speaker, offline_after, now)
    await store_module.hear(conn, speaker.tenant_id, speaker.named_id, speaker.agent_id, now)
    if leaves:
        await switches.settle_goodbye(
            conn, speaker.tenant_id, speaker.agent_id, now, instance_id=speaker.named_id
        )
        await store_module.leave(conn, speaker.tenant_id, speaker.named_id, now)
    return replace(nothing, follows=moved, moved=moved)


async def _promote_candidate(
    conn: Conn, speaker: Speaker, offline_after: timedelta, now: datetime
) -> bool:
    assert speaker.named_id is not None
    if await store.lock(conn, speaker.agent_id) is None:
        raise errors.AgentNotFound
    known = await instances.find(conn, speaker.tenant_id, speaker.named_id)
    if known is None or known.status != "launching":
        return False
    if not await pending_launches.may_serve(
        conn, speaker.tenant_id, speaker.agent_id, silent_since=now - offline_after
    ):
        return False
    await primary.move_primary(
        conn, speaker.tenant_id, speaker.agent_id, known.id, cause="registration", now=now
    )
    return True


async def _owed(conn: Conn, speaker: Speaker, now: datetime) -> bool:
    """Whether an anonymous goodbye is that of the instance which the agent left last."""
    await store.lock_any(conn, speaker.tenant_id, speaker.agent_id)
    left = await switches.settle_goodbye(conn, speaker.tenant_id, speaker.agent_id, now)
    if left is None:
        return False
    await store_module.leave(conn, speaker.tenant_id, left, now)
    return True


async def _primary(conn: Conn, speaker: Speaker, beat: Beat, now: datetime) -> None:
    if speaker.primary_id is None:
        return
    shown = rules.status_shown(
        rules.status_said(beat.word), enabled=speaker.enabled, switching=speaker.switching
    )
    # The agent's row first, then the instance's, then the session's, as a registration does.
    moved = None
    if shown != speaker.status:
        moved = await store.set_status(conn, speaker.tenant_id, speaker.agent_id, shown, now)
    await instances.refresh(conn, speaker.tenant_id, replace(beat.said, id=speaker.primary_id), now)
    await store_module.hear(
        conn, speaker.tenant_id, speaker.primary_id, speaker.agent_id, now, load=beat.load
    )
    if shown == "offline":
        await store_module.leave(conn, speaker.tenant_id, speaker.primary_id, now)
    if moved == "offline":
        event = convert.marked_offline(
            speaker.tenant_id, speaker.agent_id, speaker.primary_id, "it said goodbye"
        )
        await events.append(conn, event, now)
