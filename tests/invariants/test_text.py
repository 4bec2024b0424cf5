"""Texts that the database cannot store are the caller's mistake, wherever they stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from spotplane_server.kernel.auth import policy

from tests.invariants import rpcs
from tests.invariants.test_foreign_tenant import estate
from tests.support.plane import ADMIN, Plane

NUL: Final = "i\0"
# A message may contain itself.
DEEPEST: Final = 4


def _places(kind: Descriptor, depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Every text in a message, by the first field on the way to it, as JSON with NUL there."""
    if depth > DEEPEST or kind.full_name.startswith("google.protobuf"):
        return
    for field in kind.fields:
        inner: list[Any] = []
        if field.type == FieldDescriptor.TYPE_STRING:
            inner = [NUL]
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        elif field.message_type is not None:
            inner = [{name: said} for name, said in _places(field.message_type, depth + 1)]
        yield from ((field.name, [said] if field.is_repeated else said) for said in inner)


async def test_nul_is_refused_in_every_text(plane: Plane) -> None:
    """Or of no consequence; never a defect of ours."""
    tenant = await plane.tenant()
    mine = await estate(plane, tenant)
    defects: dict[tuple[str, str], object] = {}
    for name, rpc in rpcs.ALL.items():
        metadata = tenant.metadata if policy.METHODS[rpc.path].roles else ADMIN
        usual = rpc.request(**rpcs.ARGUMENTS.get(name, {}) | mine.request(name))
        answered = False
        for field, said in _places(rpc.method.input_type):
            request = rpc.request()
            request.CopyFrom(usual)
            request.ClearField(field)
            request.MergeFrom(ParseDict({field: said}, rpc.request()))
            refusal = await rpc.send(plane.channel, metadata, request)
            answered = answered or refusal is None
            if refusal is not None and refusal.http_status >= 500:
                defects[name, f"{field}: {said!r}"] = refusal.reason
        if answered and not name.partition("/")[2].startswith(("Get", "List", "Search")):
            # It may have used up what there was.
            mine = await estate(plane, tenant)
    assert defects == {}
