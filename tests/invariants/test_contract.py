"""The protos are the contract: documented, listed by reflection, and what the doors print."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from spotplane_bridge import openapi, routes

from tests.invariants import rpcs
from tests.support.eventually import eventually
from tests.support.plane import Plane

PROTOS: Final = sorted((Path(__file__).parents[2] / "proto" / "spotplane" / "v1").glob("*.proto"))
DECLARES: Final = re.compile(
    r"\s*(message|service|rpc|enum|oneof)\s|\s*(optional |repeated |map<)?[\w.<>, ]+ \w+ = \d+|"
    r"\s*[A-Z0-9_]+ = \d+;"
)


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.name)
def test_every_declaration_has_a_comment(path: Path) -> None:
    """Directly above it; `buf` checks that there is one, this that it is no empty line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    bare = [
        line.strip()
        for above, line in pairwise(lines)
        if DECLARES.match(line)
        and not line.lstrip().startswith(("//", "option", "reserved", "import"))
        and not re.match(r"\s*//\s*\S", above)
    ]
    assert not bare


def test_every_rpc_has_a_request_of_its_own_name() -> None:
    """So that a field for one of them never shows up in another; flat lists print the same.

    Where two services have RPCs of one name, the second puts its noun before it.
    """

    def names(rpc: str) -> set[str]:
        service, method = rpc.split("/")
        own = f"{method.removesuffix('Flat')}Request"
        return {own, f"{service.removesuffix('Service')}{own}"}

    assert not [
        name for name, rpc in rpcs.ALL.items() if rpc.method.input_type.name not in names(name)
    ]


def _members(message: Descriptor) -> set[str]:
    return {field.name for field in message.fields}


def _named(document: dict[str, Any], operation: dict[str, Any]) -> set[str]:
    """What an operation's description takes: parameters, and members of its body."""
    names = {parameter["name"] for parameter in operation.get("parameters", ())}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = body.get("schema", {})
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return names | set(schema.get("properties", {}))


def test_every_field_of_an_annotated_request_is_in_the_rest_description() -> None:
    """As a parameter of path or query, or as a member of the body."""
    document: dict[str, Any] = openapi.build(routes.load_routes())
    lacking: dict[str, set[str]] = {}
    seen = 0
    for name, rpc in rpcs.ALL.items():
        options: Any = rpc.method.GetOptions()
        rule = options.Extensions[annotations_pb2.http]
        for verb in ("get", "post", "put", "patch", "delete"):
            template = getattr(rule, verb)
            if not template:
                continue
            seen += 1
            operation = document["paths"][re.sub(r"\{(\w+)=[^}]*\}", r"{\1}", template)][verb]
            missing = _members(rpc.method.input_type) - _named(document, operation)
            if missing:
                lacking[name] = missing
    assert seen > 30
    assert not lacking


async def test_reflection_lists_every_service(plane: Plane) -> None:
    """And answers without a credential."""
    stub = reflection_pb2_grpc.ServerReflectionStub(plane.channel)
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    async for answer in call:
        listed = {service.name for service in answer.list_services_response.service}
    ours = {f"spotplane.v1.{name.split('/')[0]}" for name in rpcs.ALL}
    assert ours | {"grpc.health.v1.Health"} <= listed


@pytest.mark.parametrize("check", ["", "database", "migrations", "partitions", "rollups"])
async def test_health_names_each_check(plane: Plane, check: str) -> None:
    """And all of them together."""
    stub = health_pb2_grpc.HealthStub(plane.channel)

    async def serving() -> bool:
        with suppress(grpc.aio.AioRpcError):  # not known before the first look at it
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=check))
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return False

    assert await eventually(serving)


async def test_health_does_not_know_what_there_is_not(plane: Plane) -> None:
    """A misspelt check must not look healthy."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(plane.channel).Check(
            health_pb2.HealthCheckRequest(service="nothing")
        )
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
