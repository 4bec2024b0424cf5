"""Nodes that make themselves known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import uuid4

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import Caller, TenantId
from spotplane_server.nodes import catalog_lookup, events, launching, rules, store
from spotplane_server.nodes.errors import NodeNotFound
from spotplane_server.nodes.requests import Registration
from spotplane_server.nodes.rules import Status
from spotplane_server.nodes.store import Known, Told


@dataclass(frozen=True, slots=True)
class Registered:
    """A node that registered; ``new`` when its name was not known."""

    node: Known
    status: Status
    new: bool


async def register(
    conn: Conn, caller: Caller, tenant_id: TenantId | None, wanted: Registration, now: datetime
) -> Registered:
    """Make a node known, or known anew.

    Names are unique over all tenants, so the connection must see all; whose the node is is checked
    here. The catalogue's rows are held before the node's, in everybody's order.

    Raises:
        Semantic: The catalogue lacks what it names. NodeNotFound: The name is another tenant's.
    """
    await launching.hold_tenant(conn, tenant_id)
    place = await catalog_lookup.hold(conn, wanted)
    told = Told(
        wanted.provider,
        place.region_id,
        place.instance_type_id,
        place.model_id,
        wanted.endpoint_url,
        wanted.internal_ip,
        wanted.gpu_type,
        wanted.vram_total_gb,
        wanted.spot_instance,
        wanted.spot_price,
    )
    name = wanted.cluster_name or launching.generated_name(wanted.provider, wanted.region)
    known = await store.lock_by_name(conn, name)
    if known is None:
        made = await store.insert(
            conn,
            uuid4(),
            name,
            tenant_id,
            told,
            status=wanted.status,
            score=_score(wanted.status),
            now=now,
        )
        if made is not None:
            return await _told(conn, made, made.status, wanted, now, new=True)
        known = await store.lock_by_name(conn, name)  # another call was faster
    if known is None or not _may_claim(known, caller, tenant_id):
        raise NodeNotFound("the cluster name is not this caller's")
    status = rules.after_registration(known.status, wanted.status, known.termination_at, now)
    await store.update(
        conn, known.id, tenant_id, told, status=status, score=_score(status), now=now
    )
    known = replace(known, tenant_id=known.tenant_id or tenant_id)
    await launching.advance(conn, known, rules.launch_stage(status), now)
    return await _told(conn, known, status, wanted, now, new=False)


def _may_claim(known: Known, caller: Caller, tenant_id: TenantId | None) -> bool:
    """Whether a registration is of its own node, or of one that was launched for whoever comes."""
    if known.tenant_id is None:
        return caller.tenant_id is None or known.status == "launching"
    return known.tenant_id == tenant_id or (caller.tenant_id is None and tenant_id is None)


def _score(status: Status) -> int:
    # One that says that it serves is believed until its first heartbeat.
    return 100 if status == "active" else 0


async def _told(
    conn: Conn, node: Known, status: Status, wanted: Registration, now: datetime, *, new: bool
) -> Registered:
    said = {
        "status": status,
        "provider": wanted.provider,
        "endpoint_url": wanted.endpoint_url,
        "region": wanted.region,
        "model": wanted.model_name,
        "instance_type": wanted.instance_type,
    }
    before = None if new else {"status": node.status}
    await events.record(conn, node, "register", now, before=before, after=said)
    await events.tell(conn, node, "registered", now, new=new, **said)
    return Registered(node, status, new)
