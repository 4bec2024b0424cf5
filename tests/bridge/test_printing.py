"""Messages as JSON: equal to the proto JSON mapping, in the contract's form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from spotplane.v1 import agent_pb2, tenant_pb2
from spotplane_bridge.parser import compile_parser
from spotplane_bridge.routes import load_routes
from spotplane_bridge.serializer import to_json

from tests.bridge.messages import messages

ANSWERS = sorted(
    {route.descriptor.output_type for route in load_routes() if not route.is_raw},
    key=lambda descriptor: str(descriptor.full_name),
)


def normal_form(value: Any) -> Any:
    """Return the value without null members: both frontends must agree on the rest."""
    if isinstance(value, dict):
        return {name: normal_form(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [normal_form(item) for item in value]
    return value


def proto_json(message: Any) -> Any:
    """The proto JSON mapping, with 64-bit integers as numbers."""
    out: dict[str, Any] = {}
    plain = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    for name, value in plain.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        kind = field.message_type
        if field.cpp_type in {field.CPPTYPE_INT64, field.CPPTYPE_UINT64}:
            out[name] = int(value)
        elif kind is None or kind.full_name.startswith("google.protobuf."):
            out[name] = value
        elif field.is_repeated:
            out[name] = [proto_json(item) for item in getattr(message, name)]
        else:
            out[name] = proto_json(getattr(message, name))
    return out


@pytest.mark.parametrize("descriptor", ANSWERS, ids=lambda d: d.name)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_responses_agree_with_proto_json(descriptor: Descriptor, data: st.DataObject) -> None:
    message = data.draw(messages(descriptor))
    assert normal_form(to_json(message)) == normal_form(proto_json(message))


@pytest.mark.parametrize("descriptor", ANSWERS, ids=lambda d: d.name)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_is_printed_reads_back(descriptor: Descriptor, data: st.DataObject) -> None:
    """Printing, JSON and reading lose nothing."""
    message = data.draw(messages(descriptor))
    again = type(message)()
    compile_parser(descriptor)(again, orjson.loads(orjson.dumps(to_json(message))), "")
    assert again == message


def test_every_field_is_printed_in_the_files_order() -> None:
    """An empty message shows all its members; absent ones as null, lists as empty lists."""
    printed = to_json(tenant_pb2.ListTenantsResponse(data=[tenant_pb2.Tenant()]))
    assert list(printed["data"][0]) == [f.name for f in tenant_pb2.Tenant.DESCRIPTOR.fields]
    assert printed["data"][0]["suspended_at"] is None
    assert printed["data"][0]["suspension_reason"] is None
    assert printed["data"][0]["metadata"] is None
    assert printed["data"][0]["api_keys_count"] == 0
    assert printed["pagination"] is None
    assert to_json(agent_pb2.Command())["history"] == []


def test_an_empty_free_object_is_an_object() -> None:
    """Present and empty is another thing than absent."""
    tenant = tenant_pb2.Tenant()
    tenant.metadata.SetInParent()
    assert to_json(tenant)["metadata"] == {}


def test_whole_numbers_in_free_objects_are_integers() -> None:
    """A free object that went in with 3 comes out with 3, not 3.0."""
    tenant = tenant_pb2.Tenant()
    tenant.metadata.update({"a": 3, "b": [2.5, {"c": -1}], "d": 1e300})
    assert orjson.dumps(to_json(tenant)["metadata"]) == b'{"a":3,"b":[2.5,{"c":-1}],"d":1e+300}'


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "2026-03-01T12:00:00Z"),
        (500_000_000, "2026-03-01T12:00:00.500Z"),
        (123_456_000, "2026-03-01T12:00:00.123456Z"),
        (1, "2026-03-01T12:00:00.000000001Z"),
    ],
)
def test_instants_have_as_few_digits_as_are_exact(nanos: int, text: str) -> None:
    assert to_json(Timestamp(seconds=1772366400, nanos=nanos)) == text


def test_numbers_that_are_not_finite_are_never_sent() -> None:
    """JSON has no text for them; the member is null."""
    printed = to_json(tenant_pb2.Tenant(total_spend_usd=float("nan")))
    assert orjson.loads(orjson.dumps(printed))["total_spend_usd"] is None
