"""REST through a real bridge to the real server on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import ClientSession
from spotplane_bridge.app import running as bridge_running
from spotplane_bridge.config import BridgeConfig

from tests.support.plane import ADMIN_TOKEN, Plane, running

ADMIN = {"X-Admin-Token": ADMIN_TOKEN}

# Constant, because test processes must agree on the names of tests.
ANONYMOUS = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def plane(database_url: str) -> AsyncIterator[Plane]:
    async with running(database_url) as up:
        yield up


@pytest.fixture
async def config(plane: Plane) -> BridgeConfig:
    return BridgeConfig(port=0, grpc_target=plane.target)


@pytest.fixture
async def http(config: BridgeConfig) -> AsyncIterator[ClientSession]:
    async with (
        bridge_running(config) as port,
        ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def call(
    http: ClientSession, status: int, method: str, path: str, body: Any = None, **headers: str
) -> Any:
    """Call as an administrator unless headers say otherwise, and expect a status."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()} or ADMIN
    async with http.request(method, path, json=body, headers=sent) as response:
        reply = await response.json()
        assert response.status == status, reply
        return reply


async def test_a_tenant_lives_its_life_by_rest(http: ClientSession) -> None:
    """Created, keyed, read with its key, suspended, refused at once, activated, deleted."""
    email = f"{uuid4().hex}@example.com"
    new = {"name": "Search", "email": email, "metadata": {"team": 7}}
    tenant = await call(http, 201, "POST", "/admin/tenants", new)
    assert tenant["metadata"] == {"team": 7}
    assert tenant["suspended_at"] is None
    assert tenant["api_keys_count"] == 0
    path = f"/admin/tenants/{tenant['id']}"
    assert await call(http, 200, "GET", path) == tenant

    key = await call(http, 201, "POST", "/admin/api-keys", {"tenant_id": tenant["id"]})
    bearer = {"Authorization": f"Bearer {key['key']}"}
    own = await call(http, 200, "GET", "/v1/api-keys", **bearer)
    assert [item["id"] for item in own["data"]] == [key["id"]]

    suspended = await call(http, 200, "POST", f"{path}/suspend", {"reason": "unpaid"})
    assert suspended["tenant"]["status"] == "suspended"
    refused = await call(http, 403, "GET", "/v1/api-keys", **bearer)
    assert refused["error"]["code"] == "TENANT_SUSPENDED"
    await call(http, 200, "POST", f"{path}/activate")
    await call(http, 200, "GET", "/v1/api-keys", **bearer)

    assert (await call(http, 200, "DELETE", path))["status"] == "deleted"
    again = await call(http, 409, "DELETE", path)
    assert again["error"]["code"] == "TENANT_DELETED"


@pytest.mark.parametrize(
    ("status", "code", "method", "path", "body"),
    [
        (400, "INVALID_ID", "GET", "/admin/tenants/nope", None),
        (404, "TENANT_NOT_FOUND", "GET", f"/admin/tenants/{ANONYMOUS}", None),
        (400, "MISSING_FIELD", "POST", "/admin/tenants", {}),
        (400, "INVALID_EMAIL", "POST", "/admin/tenants", {"name": "x", "email": "x"}),
        (400, "OUT_OF_RANGE", "GET", "/admin/tenants?limit=101", None),
        (400, "UNKNOWN_ENUM", "GET", "/admin/tenants?status=gone", None),
        (400, "INVALID_PAGE_TOKEN", "GET", "/admin/tenants?page_token=x", None),
        (404, "REGION_NOT_FOUND", "DELETE", f"/admin/regions/{ANONYMOUS}", None),
        (400, "INVALID_ID", "GET", "/admin/instance-types/x", None),
    ],
)
async def test_refusals_have_the_contracts_status_and_code(
    http: ClientSession, status: int, code: str, method: str, path: str, body: Any
) -> None:
    error = (await call(http, status, method, path, body))["error"]
    assert (error["code"], error["status_code"]) == (code, status)
    assert error["correlation_id"]


async def test_credentials_are_required(http: ClientSession) -> None:
    none = await call(http, 401, "GET", "/admin/tenants", Accept="*/*")
    assert none["error"]["code"] == "ADMIN_TOKEN_MISSING"
    bad = await call(http, 401, "GET", "/admin/tenants", X_Admin_Token="wrong")
    assert bad["error"]["code"] == "ADMIN_TOKEN_INVALID"
    key = await call(http, 401, "GET", "/v1/api-keys", Authorization="Bearer sp_live_x")
    assert key["error"]["code"] == "API_KEY_INVALID"


async def test_responses_carry_the_rate_limit(http: ClientSession, plane: Plane) -> None:
    tenant = await plane.tenant(rate_limit_rpm=2)
    headers = {"Authorization": f"Bearer {tenant.key}"}
    for remaining in ("1", "0"):
        async with http.get("/v1/api-keys", headers=headers) as response:
            assert response.status == 200
            assert response.headers["X-RateLimit-Limit"] == "2"
            assert response.headers["X-RateLimit-Remaining"] == remaining
    async with http.get("/v1/api-keys", headers=headers) as response:
        assert response.status == 429
        assert (await response.json())["error"]["code"] == "RATE_LIMIT_REQUESTS"
        assert int(response.headers["Retry-After"]) >= 1


async def test_flat_lists_are_bare_arrays(http: ClientSession) -> None:
    region = {"code": "eu-test-1", "name": "Test", "provider": "aws", "metadata": {"n": 2**40}}
    made = await call(http, 201, "POST", "/admin/regions", region)
    async with http.get("/admin/regions?provider=aws", headers=ADMIN) as response:
        listed = await response.json()
        assert int(response.headers["X-Total-Count"]) == len(listed)
    assert made in listed
    enveloped = await call(http, 200, "GET", "/admin/regions?envelope=true")
    assert enveloped["pagination"]["total"] >= len(listed)


async def test_ready_requires_the_database(http: ClientSession) -> None:
    async with http.get("/ready") as response:
        assert (response.status, (await response.json())["status"]) == (200, "ready")
