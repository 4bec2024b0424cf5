"""Objects for requests: created on first use, one set per frontend."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import quote
from uuid import uuid4

from tests.support.plane import ADMIN_TOKEN

# Part of every name made here, so that names of two worlds can be recognized as alike.
MARK: Final = re.compile(r"w[0-9a-f]{8}w")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")

Headers = dict[str, str]


class Send(Protocol):
    """Sends one REST request and returns its JSON; a status other than 2xx is an AssertionError."""

    def __call__(
        self, method: str, path: str, *, headers: Headers, json: object
    ) -> Awaitable[Any]: ...


class World:
    """A tenant, its objects, and a part of the catalogue.

    ``await world.fill("/admin/tenants/{tenant}")`` replaces names by ids and creates missing
    objects.
    Names are those of the functions below.
    """

    def __init__(self, send: Send) -> None:
        self.mark = f"w{uuid4().hex[:8]}w"
        self._send = send
        self._made: dict[str, str] = {"mark": self.mark}

    async def fill(self, value: Any) -> Any:
        """Replace ``{name}`` in texts, at any depth; returns new containers."""
        if isinstance(value, str):
            for name in _PLACEHOLDER.findall(value):
                value = value.replace(f"{{{name}}}", await self.get(name))
            return value
        if isinstance(value, dict):
            return {key: await self.fill(member) for key, member in value.items()}
        if isinstance(value, list):
            return [await self.fill(item) for item in value]
        return value

    async def get(self, name: str) -> str:
        """Return the object of this name; created on the first call."""
        if name not in self._made:
            await _MAKERS[name](self)
        return self._made[name]

    async def headers(self, who: str) -> Headers:
        """Return the credentials of `admin`, of the tenant's `key`, invalid ones, or none."""
        match who:
            case "admin":
                return {"x-admin-token": ADMIN_TOKEN}
            case "key":
                return {"authorization": f"Bearer {await self.get('secret')}"}
            case "false":
                return {"x-admin-token": "false", "authorization": "Bearer false"}
        return {}

    async def make(self, who: str, path: str, body: dict[str, Any], **names: str) -> None:
        """POST, and store members of the response: ``names`` maps our name to the member's."""
        answer = await self._send(
            "POST",
            await self.fill(path),
            headers=await self.headers(who),
            json=await self.fill(body),
        )
        for name, member in names.items():
            self._made[name] = str(answer[member])


Maker = Callable[[World], Awaitable[None]]


async def _tenant(world: World) -> None:
    body = {"name": "Parity {mark}", "email": "{mark}@example.com", "metadata": {"a": [1, None]}}
    await world.make("admin", "/admin/tenants", body, tenant="id")


async def _suspended(world: World) -> None:
    body = {"name": "Suspended {mark}", "email": "s-{mark}@example.com"}
    await world.make("admin", "/admin/tenants", body, suspended="id")
    await world.make("admin", "/admin/tenants/{suspended}/suspend", {})


async def _key(world: World) -> None:
    body = {"tenant_id": "{tenant}", "name": "k-{mark}", "description": "spare"}
    await world.make("admin", "/admin/api-keys", body, key="id", environment="environment_id")


async def _budget(world: World) -> None:
    # Without an end: how far a period is over differs from one call to the next.
    body = {"name": "t-{mark}", "limit_usd": 1, "period": "total"}
    await world.make("admin", "/admin/tenants/{tenant}/budgets", body, budget="id")


async def _suspended_key(world: World) -> None:
    body = {"tenant_id": "{tenant}", "name": "sk-{mark}"}
    await world.make("admin", "/admin/api-keys", body, suspended_key="id")
    await world.make("admin", "/admin/api-keys/{suspended_key}/suspend", {})


async def _secret(world: World) -> None:
    body = {
        "tenant_id": "{tenant}",
        "name": "caller-{mark}",
        "role": "admin",
        "rate_limit_rpm": 1_000_000,
        "concurrency_limit": 1000,
    }
    await world.make("admin", "/admin/api-keys", body, secret="key")


async def _region(world: World) -> None:
    body = {"code": "r-{mark}", "name": "R {mark}", "provider": "aws", "country": "India"}
    await world.make("admin", "/admin/regions", body, region="id", region_code="code")


async def _instance_type(world: World) -> None:
    body = {**INSTANCE_TYPE, "instance_type": "i.{mark}"}
    await world.make("admin", "/admin/instance-types", body, instance_type="id")


async def _sold(world: World) -> None:
    path = "/admin/instance-types/{instance_type}/regions"
    await world.make("admin", path, {"region_codes": ["{region_code}"]}, sold="status")


async def _model(world: World) -> None:
    await world.make("admin", "/admin/models", {**MODEL, "name": "m-{mark}"}, model="id")


async def _node(world: World) -> None:
    await world.make("admin", "/admin/nodes/register", NODE, node="node_id")


async def _model_path(world: World) -> None:
    body = {**MODEL, "name": "org/{mark} 8b"}
    await world.make("admin", "/admin/models", body, model_name="name")
    world._made["model_path"] = quote(world._made["model_name"])
    world._made["model_code"] = quote(world._made["model_name"], safe="")


async def _ended_job(world: World) -> None:
    for name in ("sold", "model"):
        await world.get(name)
    body = {"provider": "aws", "region": "{region_code}", "model": "m-{mark}", "gpu": "T4"}
    names = {"ended_job": "job_id", "ended_node": "node_id", "ended_name": "cluster_name"}
    await world.make("admin", "/admin/nodes/launch", body, **names)
    await world.make("admin", "/admin/nodes/{ended_name}/terminate", {})


async def _agent(world: World) -> None:
    await world.make("key", "/v1/agents/register", REGISTRATION, agent="agent_id")


async def _command(world: World) -> None:
    body = {"type": "custom", "name": "greet", "parameters": {"n": 1}}
    await world.make("key", "/v1/agents/{agent}/commands", body, command="id")


async def _failover(world: World) -> None:
    await world.make("key", "/v1/agents/{agent}/notices", {"kind": "rebalance"}, failover="id")


async def _record(world: World) -> None:
    await world.make("key", "/v1/usage/records", {"records": [RECORD]}, record="accepted")


async def _now(world: World) -> None:
    world._made["now"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _tomorrow(world: World) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    world._made["tomorrow"] = later.strftime("%Y-%m-%dT%H:%M:%SZ")


_MAKERS: Final[dict[str, Maker]] = {
    "tenant": _tenant,
    "suspended": _suspended,
    "key": _key,
    "budget": _budget,
    "environment": _key,
    "suspended_key": _suspended_key,
    "secret": _secret,
    "region": _region,
    "region_code": _region,
    "instance_type": _instance_type,
    "sold": _sold,
    "model": _model,
    "node": _node,
    "model_path": _model_path,
    "model_code": _model_path,
    "ended_job": _ended_job,
    "ended_node": _ended_job,
    "agent": _agent,
    "command": _command,
    "failover": _failover,
    "record": _record,
    "now": _now,
    "tomorrow": _tomorrow,
}

INSTANCE_TYPE: Final = {
    "provider": "aws",
    "gpu_model": "NVIDIA T4",
    "vcpu_count": 4,
    "memory_gb": 16.5,
    "gpu_count": 1,
    "gpu_memory_gb": 16,
    "price_per_hour": 0.526,
    "supports_spot": True,
}
MODEL: Final = {
    "family": "Llama",
    "type": "chat",
    "context_length": 8192,
    "vram_required_gb": 16,
    "price_input_per_million": 0.05,
    "price_output_per_million": 0.05,
}
REGISTRATION: Final = {
    "logical_agent_id": "agent-{mark}",
    "instance_id": "i-{mark}",
    "instance_type": "g4dn.xlarge",
    "region": "us-east-1",
    "az": "us-east-1a",
    "mode": "spot",
}
NODE: Final = {
    "provider": "aws",
    "endpoint_url": "http://10.0.0.1:8000",
    "cluster_name": "node-{mark}",
    "vram_total_gb": 24,
    "spot_instance": True,
    "spot_price": 0.302,
}
RECORD: Final = {
    "request_id": "req-{mark}",
    "model": "m-{mark}",
    "timestamp": "{now}",
    "prompt_tokens": 12,
    "completion_tokens": "34",
    "latency_ms": 250,
}
