"""Pages of tenants and keys: by offset, by token, and flat."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.support.plane import Plane, refused
from tests.tenants.api import Api, admin, email, holder

COUNT = 7


async def filled(plane: Plane, method: str) -> tuple[Api, dict[str, Any]]:
    """A caller and the fields of a list of seven."""
    api = admin(plane)
    if method == "ListTenants":
        for _ in range(COUNT):
            await api("CreateTenant", name="A", email=email())
        return api, {}
    tenant, other = await plane.tenant(), await plane.tenant()
    for _ in range(COUNT - 1):
        await plane.key(tenant.id)
    await plane.key(other.id)
    return {
        "ListTenantApiKeys": (api, {"id": tenant.id}),
        "ListApiKeys": (api, {"tenant_id": tenant.id}),
        "ListOwnApiKeys": (holder(plane, tenant.key), {}),
    }[method]


@pytest.mark.parametrize("method", ["ListTenants", "ListTenantApiKeys", "ListOwnApiKeys"])
async def test_pages_by_token_by_offset_and_all_at_once_are_the_same_items(
    plane: Plane, method: str
) -> None:
    """Newest first, each once, with the total on every page."""
    api, fields = await filled(plane, method)
    everything = await api(method, **fields)
    by_token: list[Any] = []
    by_offset: list[Any] = []
    token = ""
    while not by_token or token:
        page = await api(method, limit=3, **({"page_token": token} if token else {}), **fields)
        by_token += page.data
        token = page.pagination.next_page_token
        assert page.pagination.has_more is bool(token)
        assert page.pagination.total == COUNT
    for offset in range(0, COUNT, 3):
        by_offset += (await api(method, limit=3, offset=offset, **fields)).data

    assert list(everything.data) == by_token == by_offset
    assert len(by_token) == COUNT
    created = [item.created_at.ToNanoseconds() for item in by_token]
    assert created == sorted(created, reverse=True)
    beyond = await api(method, offset=COUNT, **fields)
    assert (len(beyond.data), beyond.pagination.total) == (0, COUNT)
    assert not beyond.pagination.has_more


async def test_items_made_meanwhile_do_not_shift_pages_by_token(plane: Plane) -> None:
    api, fields = await filled(plane, "ListTenants")
    first = await api("ListTenants", limit=4, **fields)
    await api("CreateTenant", name="late", email=email())

    second = await api("ListTenants", limit=4, page_token=first.pagination.next_page_token)

    seen = [tenant.id for tenant in (*first.data, *second.data)]
    assert len(set(seen)) == len(seen) == COUNT


@pytest.mark.parametrize(
    ("method", "maximum"),
    [
        ("ListTenants", 100),
        ("ListTenantApiKeys", 100),
        ("ListOwnApiKeys", 100),
        ("ListApiKeys", 1000),
    ],
)
async def test_a_limit_is_held_to_its_range(plane: Plane, method: str, maximum: int) -> None:
    """1 and the maximum are fine, 0 and one more are not."""
    api, fields = await filled(plane, method)
    for good in (1, maximum):
        assert len((await api(method, limit=good, **fields)).data) == min(good, COUNT)
    for bad in (-1, 0, maximum + 1):
        async with refused("OUT_OF_RANGE", field="limit"):
            await api(method, limit=bad, **fields)


async def test_a_page_token_is_bound_to_its_list_and_filters(plane: Plane) -> None:
    """A forged one, another list's, another filter's, or one beside an offset is refused."""
    api, fields = await filled(plane, "ListTenantApiKeys")
    other = await plane.tenant()
    token = (await api("ListTenantApiKeys", limit=3, **fields)).pagination.next_page_token

    for bad in (
        {"page_token": token[:-2] + ("AA" if token[-2:] != "AA" else "BB"), **fields},
        {"page_token": "nonsense", **fields},
        {"page_token": "é", **fields},
        {"page_token": token, "status": "active", **fields},
        {"page_token": token, "id": other.id},
        {"page_token": token, "offset": 0, **fields},
    ):
        async with refused("INVALID_PAGE_TOKEN", field="page_token"):
            await api("ListTenantApiKeys", **bad)
    async with refused("INVALID_PAGE_TOKEN"):
        await api("ListTenants", page_token=token)
    async with refused("OUT_OF_RANGE", field="offset"):
        await api("ListTenants", offset=-1)


async def test_a_flat_list_is_a_bare_array_with_the_total_beside_it(plane: Plane) -> None:
    """Every field is there: numbers as numbers, absent ones as null, instants with Z."""
    api, fields = await filled(plane, "ListApiKeys")
    call = api("ListApiKeysFlat", limit=2, **fields)
    body = await call

    assert body.content_type == "application/json"
    assert dict(iter(await call.initial_metadata()))["x-total-count"] == str(COUNT)
    keys = orjson.loads(body.data)
    typed = await api("ListApiKeys", limit=2, **fields)
    assert [key["id"] for key in keys] == [key.id for key in typed.data]
    assert set(keys[0]) == {field.name for field in typed.data[0].DESCRIPTOR.fields}
    assert keys[0]["rate_limit_rpm"] == 60
    assert keys[0]["rate_limit_tpm"] is None
    assert keys[0]["created_at"].endswith("Z")


async def test_a_flat_list_has_an_envelope_on_request(plane: Plane) -> None:
    api, fields = await filled(plane, "ListApiKeys")
    bare = orjson.loads((await api("ListApiKeysFlat", **fields)).data)

    first = orjson.loads((await api("ListApiKeysFlat", limit=4, envelope=True, **fields)).data)
    token = first["pagination"]["next_page_token"]
    rest = orjson.loads((await api("ListApiKeysFlat", page_token=token, **fields)).data)

    assert first["data"] + rest == bare
    assert first["pagination"]["total"] == COUNT
    assert first["pagination"]["has_more"] is True


async def test_keys_are_filtered_by_status(plane: Plane) -> None:
    api, fields = await filled(plane, "ListTenantApiKeys")
    newest = (await api("ListTenantApiKeys", limit=1, **fields)).data[0]
    await api("RevokeApiKey", key_id=newest.id)

    revoked = await api("ListTenantApiKeys", status="revoked", **fields)

    assert [key.id for key in revoked.data] == [newest.id]
    assert revoked.pagination.total == 1
    assert (await api("ListTenantApiKeys", status="active", **fields)).pagination.total == COUNT - 1
    async with refused("UNKNOWN_ENUM", field="status"):
        await api("ListTenantApiKeys", status="lost", **fields)
