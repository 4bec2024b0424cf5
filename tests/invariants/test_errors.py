"""Every refusal has a documented reason, fits in its headers, and tells nothing internal."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from typing import Any, Final
from uuid import UUID

import asyncpg
import grpc
import grpc.aio
import pytest
import spotplane_server
from hypothesis import given
from hypothesis import strategies as st
from spotplane.v1 import (
    error_reason_pb2,
    region_pb2,
    region_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from spotplane_server.kernel import errors
from spotplane_server.kernel.errors import DomainError, Violation
from structlog.testing import capture_logs

from tests.support.plane import ADMIN, Plane, refusal, refused

PREFIX: Final = "ERROR_REASON_"
DOCUMENTED: Final = {
    name.removeprefix(PREFIX) for name, _ in error_reason_pb2.ErrorReason.items()
} - {"UNSPECIFIED"}
# Said by the REST doors; their tests are the bridge's.
OF_THE_DOORS: Final = {
    "INVALID_AUTH_FORMAT",
    "INVALID_JSON",
    "METHOD_NOT_ALLOWED",
    "ROUTE_NOT_FOUND",
    "SERVICE_UNAVAILABLE",
    "UNIMPLEMENTED",
    "UNKNOWN_PARAMETER",
    "UNSUPPORTED_MEDIA_TYPE",
}
# Documented for features that are still to come; this list only shrinks.
LATER: Final[frozenset[str]] = frozenset()


def _modules() -> list[Any]:
    return [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(spotplane_server.__path__, "spotplane_server.")
        if not module.name.endswith("__main__")
    ]


def _classes() -> set[type[DomainError]]:
    _modules()
    found: set[type[DomainError]] = set()
    waiting: list[type[DomainError]] = [DomainError]
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += kind.__subclasses__()
    return {kind for kind in found if kind.__module__.startswith("spotplane_server.")}


def _literals() -> set[str]:
    """Every text of the server's sources that has the form of a reason."""
    return {
        node.value
        for module in _modules()
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _keywords() -> set[str]:
    """Reasons that are given where an error is raised."""
    return {
        word.value.value
        for module in _modules()
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "reason"
        and isinstance(word.value, ast.Constant)
        and isinstance(word.value.value, str)
        and word.value.value.isupper()
    }


def test_every_reason_that_is_sent_is_documented() -> None:
    """Of classes, and of raise sites that name another one."""
    # The bases that only features' own errors stand under have no reason of their own.
    bases = {kind for kind in _classes() if kind.__module__ == errors.__name__}
    sent = {kind.reason for kind in _classes() - bases} | _keywords()
    assert len(sent) > 50
    assert not sent - DOCUMENTED


def test_no_error_class_of_a_feature_leaves_its_reason_out() -> None:
    """Whatever inherits the base's reason would be told apart by nobody."""
    assert not [
        kind
        for kind in _classes()
        if kind.__module__ != errors.__name__
        and kind.reason == DomainError.reason
        and "self.reason" not in inspect.getsource(kind)
    ]


def test_every_reason_that_is_documented_is_sent() -> None:
    """By the server, by the doors, or by a feature that is still to come."""
    said = _literals()
    assert not DOCUMENTED - said - OF_THE_DOORS - LATER
    assert not LATER & said, "these are sent by now: take them off the list"


TEXT: Final = st.text(max_size=3000)
ERRORS: Final = st.builds(
    errors.Invalid,
    TEXT,
    details=st.lists(st.builds(Violation, TEXT, TEXT), max_size=12),
    suggestion=st.none() | TEXT,
    some=st.text(max_size=50),
    other=st.text(max_size=50),
)


@given(ERRORS, st.uuids())
def test_the_error_header_is_ascii_and_at_most_four_kib(err: DomainError, call: UUID) -> None:
    """Whatever the message, the fields and the suggestion are."""
    header = errors.to_header(err, str(call))

    assert header.isascii()
    assert header.isprintable()
    assert len(header) <= 4096


@given(ERRORS, st.uuids())
def test_all_that_an_error_sends_fits_into_what_clients_take(err: DomainError, call: UUID) -> None:
    """Trailers beyond 8 KiB are refused, and with them the whole answer."""
    status = errors.to_status(err, str(call))
    message = status.message.encode()

    # A byte of the message takes up to three in its header.
    sent = len(errors.to_header(err, str(call))) + status.ByteSize() + 3 * len(message)
    assert sent <= 7400


async def test_a_refusal_with_very_many_faults_arrives(plane: Plane) -> None:
    """As many of them as fit are named."""
    tenant = await plane.tenant()
    records = [usage_pb2.UsageRecord(request_id=f"r{n}", prompt_tokens=-1) for n in range(1000)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await usage_pb2_grpc.UsageServiceStub(plane.channel).IngestUsageBatch(
            usage_pb2.IngestUsageBatchRequest(records=records, atomic=True),
            metadata=tenant.metadata,
        )

    said = refusal(caught.value)
    assert said.reason == "INVALID_RECORD", caught.value
    assert said.fields


async def test_a_defect_is_told_as_internal_and_logged_with_its_cause(plane: Plane) -> None:
    """No word of the database reaches the caller; the log has both, under one id."""
    owner = await asyncpg.connect(plane.database_url)
    await owner.execute("ALTER TABLE regions RENAME TO regions_gone")
    await owner.close()
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await region_pb2_grpc.RegionServiceStub(plane.channel).ListRegions(
            region_pb2.ListRegionsRequest(), metadata=(*ADMIN, ("x-request-id", "my-call"))
        )

    said = refusal(caught.value)
    assert (said.code, said.reason, said.message) == (
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        "internal error",
    )
    assert said.metadata["correlation_id"] == "my-call"
    sent = repr((caught.value, *iter(caught.value.trailing_metadata() or ())))
    assert "regions" not in sent.replace("RegionService", "")
    [line] = [line for line in logs if line["event"] == "unforeseen_error"]
    assert "regions" in str(line["exc_info"])


async def test_bytes_that_are_no_message_are_the_callers_fault(plane: Plane) -> None:
    """But only of a caller that may call at all."""
    path = "/spotplane.v1.TenantService/CreateTenant"
    garbage: Any = plane.channel.unary_unary(
        path, response_deserializer=tenant_pb2.Tenant.FromString
    )
    async with refused("INVALID_MESSAGE"):
        await garbage(b"\xff\xff\xff", metadata=ADMIN)
    async with refused("ADMIN_TOKEN_MISSING"):
        await garbage(b"\xff\xff\xff")


async def test_a_method_that_nobody_implements_is_unimplemented(plane: Plane) -> None:
    """Without a word on who asks."""
    unknown: Any = plane.channel.unary_unary("/spotplane.v1.TenantService/Explode")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unknown(b"", metadata=ADMIN)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    stub = tenant_pb2_grpc.TenantServiceStub(plane.channel)
    async with refused("MISSING_FIELD"):
        await stub.CreateTenant(tenant_pb2.CreateTenantRequest(), metadata=ADMIN)
