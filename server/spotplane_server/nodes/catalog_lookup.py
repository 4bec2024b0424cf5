"""Where a node stands and what it serves: names of the catalogue, looked up and held."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from spotplane_server.catalog import associations_store
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.errors import Semantic
from spotplane_server.nodes import store
from spotplane_server.nodes.requests import Registration


@dataclass(frozen=True, slots=True)
class Place:
    """Ids of the catalogue; None for what was not named."""

    region_id: UUID | None
    instance_type_id: int | None
    model_id: UUID | None


async def hold(conn: Conn, wanted: Registration) -> Place:
    """Look up what a registration names, and keep its deletion away until the transaction ends.

    Always in the order region, type, model, so that callers never wait for each other in a circle.

    Raises:
        Semantic: Something is not in the catalogue, or is another provider's.
    """
    return Place(
        await _region(conn, wanted.provider, wanted.region),
        await _type(conn, wanted.provider, wanted.instance_type),
        await _model(conn, wanted.model_name),
    )


async def _region(conn: Conn, provider: str, code: str | None) -> UUID | None:
    if code is None:
        return None
    held = (await associations_store.lock_regions_shared(conn, [code])).get(code)
    if held is None:
        raise Semantic(f"no region has the code {code}", field="region", region=code)
    # A machine of one's own may stand wherever; a cloud's stands in that cloud.
    if provider not in (held.provider, "on-prem"):
        raise Semantic(f"region {code} is {held.provider}'s", field="region", region=code)
    return held.id


async def _type(conn: Conn, provider: str, name: str | None) -> int | None:
    if name is None:
        return None
    found = await store.hold_type(conn, provider, name)
    if found is None:
        raise Semantic(
            f"{provider} has no instance type {name}", field="instance_type", instance_type=name
        )
    return found


async def _model(conn: Conn, name: str | None) -> UUID | None:
    if name is None:
        return None
    found = await store.hold_model(conn, name)
    if found is None:
        raise Semantic(f"no model is named {name}", field="model_name", model=name)
    return found.id
