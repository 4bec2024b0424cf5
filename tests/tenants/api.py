"""Calling tenants' and keys' methods by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import grpc.aio
from google.protobuf import message_factory
from spotplane.v1 import api_key_pb2, tenant_pb2

from tests.support.plane import ADMIN, Metadata, Plane, bearer, refusal

_METHODS = {
    method.name: (f"/{service.full_name}/{method.name}", method)
    for service in (
        tenant_pb2.DESCRIPTOR.services_by_name["TenantService"],
        api_key_pb2.DESCRIPTOR.services_by_name["ApiKeyService"],
    )
    for method in service.methods
}


@dataclass(frozen=True)
class Api:
    """One caller on one channel; ``api("GetTenant", id=…)`` is the call, to be awaited."""

    channel: grpc.aio.Channel
    metadata: Metadata

    def __call__(self, name: str, /, **fields: Any) -> Any:
        """Start a call."""
        path, method = _METHODS[name]
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        connect = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call = connect(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return call(request(**fields), metadata=self.metadata)


def admin(plane: Plane) -> Api:
    """The administrator."""
    return Api(plane.channel, ADMIN)


def holder(plane: Plane, key: str) -> Api:
    """Whoever holds a key."""
    return Api(plane.channel, bearer(key))


def email() -> str:
    """An e-mail that nobody has."""
    return f"{uuid4().hex}@example.com"


async def rows(plane: Plane, query: str, *args: Any) -> list[asyncpg.Record]:
    """Look into the database as its owner."""
    conn = await asyncpg.connect(plane.database_url)
    try:
        return await conn.fetch(query, *args)
    finally:
        await conn.close()


async def outcome(call: Any) -> str:
    """Await a call; ``OK`` or the reason of its refusal."""
    try:
        await call
    except grpc.aio.AioRpcError as err:
        return refusal(err).reason
    return "OK"


async def http_status(call: Any) -> int:
    """Await a call; the status that a REST door would answer."""
    await call
    return int(dict(iter(await call.initial_metadata())).get("x-spotplane-http-status", 200))
