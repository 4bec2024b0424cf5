"""`spotplane call`: any RPC of any server that has reflection, without generated stubs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from spotplane_server.cli.failures import MISUSED, fail, needs

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

    from spotplane_server.cli.plane import Plane

PACKAGE: Final = "spotplane.v1."


def call(
    method: Annotated[
        str, typer.Argument(help="Like TenantService.GetTenant; a service alone is listed.")
    ] = "",
    request: Annotated[str, typer.Argument(help="The request as JSON.")] = "{}",
    key: Annotated[
        str | None,
        typer.Option(envvar="SPOTPLANE_API_KEY", help="Call as a tenant, with this key."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Default SPOTPLANE_TARGET.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Of `spotplane dev`.")] = Path(".spotplane"),
    tls: Annotated[bool, typer.Option(help="Speak TLS.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Deadline.")] = 30.0,
) -> None:
    """Call an RPC that the server describes by reflection, and print its answer as JSON.

    Without METHOD the services are listed. Who calls is the administrator of SPOTPLANE_ADMIN_TOKEN
    or of `spotplane dev`, unless there is a key.
    """
    try:
        from google.protobuf.descriptor_pool import DescriptorPool
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
            ProtoReflectionDescriptorDatabase,
        )
    except ModuleNotFoundError as err:
        needs("server", err)
    from spotplane_server.cli.plane import connect, refusals

    plane = connect(target, data_dir, tls=tls)
    with refusals():
        database = ProtoReflectionDescriptorDatabase(plane.channel)
        if not method:
            for name in sorted(database.get_services()):
                typer.echo(name)
            return
        pool = DescriptorPool(database)
        service, _, name = method.replace("/", ".").rpartition(".")
        found = _find(pool, service, name)
        if found is None:
            _list(pool, method)
            return
        _call(plane, found, request, key, timeout)


def _find(pool: DescriptorPool, service: str, name: str) -> MethodDescriptor | None:
    descriptor = _service(pool, service)
    if descriptor is None:
        return None
    found: MethodDescriptor | None = descriptor.methods_by_name.get(name)
    if found is None:
        fail(f"{descriptor.full_name} has no method {name}", status=MISUSED)
    return found


def _service(pool: Any, name: str) -> ServiceDescriptor | None:
    for full_name in (name, PACKAGE + name):
        with suppress(KeyError):
            found: ServiceDescriptor = pool.FindServiceByName(full_name)
            return found
    return None


def _list(pool: DescriptorPool, service: str) -> None:
    descriptor = _service(pool, service)
    if descriptor is None:
        fail(f"the server has no service or method {service}", status=MISUSED)
    for rpc in descriptor.methods:
        given = ("stream " if rpc.client_streaming else "") + rpc.input_type.name
        taken = ("stream " if rpc.server_streaming else "") + rpc.output_type.name
        typer.echo(f"{descriptor.full_name}.{rpc.name}({given}) returns ({taken})")


def _call(
    plane: Plane, method: MethodDescriptor, request: str, key: str | None, timeout: float
) -> None:
    from google.protobuf import json_format, message_factory

    from spotplane_server.cli import show

    if method.client_streaming:
        fail(f"{method.name} takes a stream, which cannot be said in one line", status=MISUSED)
    message = message_factory.GetMessageClass(method.input_type)()
    try:
        json_format.Parse(request, message)
    except json_format.ParseError as err:
        fail(str(err), status=MISUSED)
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = plane.channel.unary_stream if method.server_streaming else plane.channel.unary_unary
    stub: Any = kind(
        path,
        request_serializer=lambda given: given.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    metadata = (("authorization", f"Bearer {key}"),) if key else plane.metadata
    answer = stub(message, metadata=metadata, timeout=timeout)
    for item in answer if method.server_streaming else (answer,):
        typer.echo(show.as_json(item))
