"""Launches that are ordered, and how a node shows that its own is getting on."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from spotplane_server.catalog import associations_store, instance_types_store, regions_store
from spotplane_server.catalog import rules as catalog_rules
from spotplane_server.catalog.associations_store import Offer
from spotplane_server.catalog.regions_store import Region
from spotplane_server.kernel import metrics
from spotplane_server.kernel.api import tenant_scope
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.errors import Semantic
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.nodes import (
    events,
    instance_type_selection,
    logs_store,
    operations_store,
    rules,
    store,
)
from spotplane_server.nodes.instance_type_selection import Need
from spotplane_server.nodes.store import HeldModel, Known


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be launched; ``model_field`` is what the request calls the model."""

    provider: str
    region: str
    model: str
    model_field: str
    instance_type: str | None
    gpu: str | None
    gpu_count: int | None
    spot: bool
    tenant_id: TenantId | None


@dataclass(frozen=True, slots=True)
class Ordered:
    """A launch that was ordered."""

    node: Known
    job_id: UUID
    model: str


async def order(conn: Conn, wanted: Order, *, default_max: int, now: datetime) -> Ordered:
    """Store a node to be launched and the job that launches it.

    The region is held against other launches, so that it never gets more nodes than it may, and
    against its deletion; the type and the model are held against theirs.

    Args:
        conn: A transaction that sees all tenants.
        wanted: What is to be launched.
        default_max: Most nodes of a region that sets no limit itself.
        now: The time.

    Raises:
        Semantic: The catalogue lacks something, or it is not to be had.
    """
    await hold_tenant(conn, wanted.tenant_id)
    region = await _region(conn, wanted, default_max)
    model = await _model(conn, wanted)
    offers = await associations_store.list_offers(conn, region.id)
    need = Need(
        model.vram_required_gb, wanted.gpu, wanted.gpu_count, wanted.instance_type, wanted.spot
    )
    offer = instance_type_selection.choose(offers, need)
    if await instance_types_store.lock_type_shared(conn, offer.id) is None:
        raise Semantic(f"{offer.instance_type} was deleted", field="instance_type")
    node = await store.insert_launch(
        conn,
        uuid4(),
        generated_name(wanted.provider, wanted.region),
        wanted.tenant_id,
        provider=wanted.provider,
        region_id=region.id,
        instance_type_id=offer.id,
        model_id=model.id,
        gpu_type=offer.gpu_model,
        vram_total_gb=offer.gpu_memory_gb,
        spot=wanted.spot,
        now=now,
    )
    return await _put(conn, node, wanted, offer, model, now)


async def advance(conn: Conn, node: Known, stage: str, now: datetime) -> None:
    """Note that a node has brought its launch to a stage, if one is open and was not there yet."""
    if node.launched_at is None:
        return
    moved = await operations_store.advance_launch(conn, node.id, stage, now)
    if moved is None:
        return
    await logs_store.write(
        conn, node.id, _STAGES[stage], now, phase=stage, progress=rules.PROGRESS[stage]
    )
    if stage == "active":
        seconds = (now - moved.created_at).total_seconds()
        metrics.NODE_LAUNCH_SECONDS.labels(moved.provider).observe(seconds)


def generated_name(provider: str, region: str | None) -> str:
    """A name that nobody guesses: to know it is to be the machine that was launched under it."""
    return "-".join(part for part in (provider, region, secrets.token_hex(8)) if part)


async def hold_tenant(conn: Conn, tenant_id: TenantId | None) -> None:
    """Keep the tenant of a node, if it has one, from being deleted until the transaction ends.

    Raises:
        Semantic: There is no such tenant, or it is deleted.
    """
    if tenant_id is None:
        return
    try:
        await tenant_scope.hold_tenant(conn, tenant_id)
    except tenant_scope.TenantNotFound as err:
        raise Semantic("there is no such tenant", field="tenant_id") from err


_STAGES: Final = {
    "model_loading": "it has registered and loads its model",
    "health_check": "it sends heartbeats",
    "active": "it is active",
}


async def _region(conn: Conn, wanted: Order, default_max: int) -> Region:
    region = await regions_store.lock_region_by_code(conn, wanted.region)
    code = wanted.region
    if region is None:
        raise Semantic(f"no region has the code {code}", field="region", region=code)
    if region.provider != wanted.provider:
        raise Semantic(f"region {code} is {region.provider}'s", field="region", region=code)
    if not catalog_rules.is_available(region.status):
        raise Semantic(
            f"region {code} takes no launches: it is {region.status}", field="region", region=code
        )
    most = default_max if region.max_nodes is None else region.max_nodes
    if await regions_store.count_live(conn, region.id) >= most:
        raise Semantic(f"region {code} is full: {most} nodes", field="region", region=code)
    return region


async def _model(conn: Conn, wanted: Order) -> HeldModel:
    try:
        model_id = UUID(wanted.model)
    except ValueError:
        model_id = None
    found = await store.hold_model(conn, wanted.model, model_id)
    if found is None:
        raise Semantic(
            f"no model is named {wanted.model}", field=wanted.model_field, model=wanted.model
        )
    return found


async def _put(
    conn: Conn, node: Known, wanted: Order, offer: Offer, model: HeldModel, now: datetime
) -> Ordered:
    job_id = uuid4()
    spec = {
        "cluster_name": node.cluster_name,
        "region": wanted.region,
        "instance_type": offer.instance_type,
        "spot": wanted.spot,
        "model": model.name,
    }
    await operations_store.insert(
        conn,
        job_id,
        node.id,
        "launch",
        provider=wanted.provider,
        launch_id=job_id,
        spec=spec,
        machine_id=None,
        available_at=now,
        deadline_at=now + rules.LAUNCH_WITHIN,
        now=now,
    )
    told = {"job_id": str(job_id), "provider": wanted.provider, **spec}
    await events.record(conn, node, "launch", now, after={"status": "launching", **told})
    await events.tell(conn, node, "launched", now, **told)
    text = f"a {offer.instance_type} in {wanted.region} is ordered for {model.name}"
    await logs_store.write(conn, node.id, text, now, phase="queued", progress=0)
    return Ordered(node, job_id, model.name)
