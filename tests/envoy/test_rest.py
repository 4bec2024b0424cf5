"""REST through the transcoder: exact statuses, error objects, bodies."""

from __future__ import annotations

import pytest
from spotplane_bridge.edge.clusters import BUFFER_BYTES

from tests.envoy.conftest import Edge
from tests.envoy.stack import EXPORT_CHUNKS, LARGE

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"content-type": "application/json"}


async def test_success_has_the_status_that_the_server_names(edge: Edge) -> None:
    """201 comes from initial metadata, and neither internal key reaches the client."""
    response = await edge.call("POST", "/admin/tenants", json={"name": "n", "email": "e@x.io"})

    assert response.status == 201
    assert response.json["id"] == "t1"
    assert not [name for name in response.headers if name.startswith(("x-spotplane", "grpc-"))]


async def test_defaults_are_printed_and_names_are_the_protos(edge: Edge) -> None:
    """Every field without presence is there, in snake_case, 64-bit integers as strings."""
    response = await edge.call("GET", "/admin/tenants/t1")

    assert response.json["name"] == ""
    assert response.json["total_spend_nanos"] == "0"
    assert "suspended_at" not in response.json


async def test_no_content_has_no_body(edge: Edge) -> None:
    """204 drops the empty object and its headers, on an additional binding too."""
    response = await edge.call("GET", "/api/v1/admin/models/m1")

    assert (response.status, response.body) == (204, b"")
    assert "content-type" not in response.headers


@pytest.mark.parametrize(
    ("tenant", "status", "code"),
    [("missing", 404, "TENANT_NOT_FOUND"), ("odd", 422, "SEMANTIC"), ("busy", 429, "TENANT_LIMIT")],
)
async def test_error_is_the_servers_own_object(
    edge: Edge, tenant: str, status: int, code: str
) -> None:
    """Status, body and rate-limit headers are those of the trailers."""
    response = await edge.call("GET", f"/admin/tenants/{tenant}")

    assert response.status == response.error["status_code"] == status
    assert response.error["code"] == code
    assert response.error["message"] == "no évidence"
    assert (response.headers["retry-after"], response.headers["x-ratelimit-limit"]) == ("7", "60")
    assert not [name for name in response.headers if name.startswith(("x-spotplane", "grpc-"))]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/admin/tenants/plain", 403, "SCOPE_FORBIDDEN"),
        ("/admin/tenants/bug", 500, "INTERNAL"),
        ("/admin/instance-types/1", 501, "UNIMPLEMENTED"),
    ],
)
async def test_error_without_an_object_reveals_nothing_internal(
    edge: Edge, path: str, status: int, code: str
) -> None:
    response = await edge.call("GET", path)

    assert (response.status, response.error["code"]) == (status, code)
    assert response.error["correlation_id"] == response.headers["x-request-id"]
    assert b"secret" not in response.body
    assert b"plain" not in response.body


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/admin/nope"), ("GET", "/v1"), ("PATCH", "/admin/tenants")]
)
async def test_unknown_route_is_the_error_object(edge: Edge, method: str, path: str) -> None:
    """No route, or no such method on it, is ROUTE_NOT_FOUND."""
    response = await edge.call(method, path)

    assert (response.status, response.error["code"]) == (404, "ROUTE_NOT_FOUND")


@pytest.mark.parametrize(
    ("path", "code", "field"),
    [
        ("/admin/tenants?statsu=active", "UNKNOWN_PARAMETER", "statsu"),
        ("/admin/tenants?limit=abc", "OUT_OF_RANGE", "limit"),
        ("/admin/instance-types?available=abc", "UNKNOWN_ENUM", "available"),
        ("/admin/tenants/t1?id=t2", "UNKNOWN_PARAMETER", "id"),
        ("/admin/tenants/t1?%69d=t2", "UNKNOWN_PARAMETER", "id"),
        ("/v1/agents/a1?agentId=a2", "UNKNOWN_PARAMETER", "agentId"),
    ],
)
async def test_bad_parameter_is_named(edge: Edge, path: str, code: str, field: str) -> None:
    """A parameter that the route lacks, or of the wrong type, is refused by name."""
    response = await edge.call("GET", path)

    assert (response.status, response.error["code"]) == (400, code)
    assert [detail["field"] for detail in response.error["details"]] == [field]


async def test_parameter_name_cannot_break_out_of_the_object(edge: Edge) -> None:
    response = await edge.call("GET", "/admin/tenants?%22%7D%0a%3Cx%3E=1")

    assert (response.status, response.error["code"]) == (400, "UNKNOWN_PARAMETER")


async def test_query_beside_a_body_is_refused(edge: Edge) -> None:
    """A member of the body cannot be smuggled in by the query."""
    with_body = await edge.call("POST", "/admin/tenants?name=x", json={})
    without = await edge.call("POST", "/admin/tenants/t1/suspend?id=t2")

    for response in (with_body, without):
        assert (response.status, response.error["code"]) == (400, "UNKNOWN_PARAMETER")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_body_where_none_is_read_does_no_harm(edge: Edge, method: str) -> None:
    """A body on a route that reads none is not looked at."""
    response = await edge.call(method, "/admin/tenants/t1", data=b'{"id":"t2"}', headers=JSON)

    assert (response.status, edge.backend.seen.request.id) == (200, "t1")


@pytest.mark.parametrize("body", [b"{bad", b"[]", b'{"name":{"a":1}}', b'"x"'])
async def test_body_that_cannot_be_read_is_invalid_json(edge: Edge, body: bytes) -> None:
    response = await edge.call("POST", "/admin/tenants", data=body, headers=JSON)

    assert (response.status, response.error["code"]) == (400, "INVALID_JSON")


async def test_body_must_agree_with_the_path(edge: Edge) -> None:
    """A path variable repeated in the body is taken when equal and refused when not."""
    same = await edge.call("PUT", "/admin/tenants/t1", json={"id": "t1", "name": "n"})
    other = await edge.call("PUT", "/admin/tenants/t1", json={"id": "t2", "name": "n"})

    assert same.status == 200
    assert (other.status, other.error["code"]) == (400, "INVALID_FIELD")


async def test_unknown_members_and_nulls_are_ignored(edge: Edge) -> None:
    """Members that the request lacks do no harm, and null equals absent."""
    body = {"name": "n", "email": None, "new_member": {"x": [1]}}
    response = await edge.call("POST", "/admin/tenants", json=body)

    assert response.status == 201
    assert edge.backend.seen.request.email == ""


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/admin/tenants/t1/suspend"), ("PUT", "/admin/tenants/t1")]
)
async def test_empty_body_equals_an_empty_object(edge: Edge, method: str, path: str) -> None:
    response = await edge.call(method, path)

    assert response.status == 200
    assert edge.backend.seen.request.id == "t1"


@pytest.mark.parametrize(
    ("media", "status"),
    [("text/plain", 415), ("application/json; charset=utf-8", 201), ("Application/JSON", 201)],
)
async def test_body_must_be_json(edge: Edge, media: str, status: int) -> None:
    """Another media type is 415 with the error object."""
    response = await edge.call(
        "POST", "/admin/tenants", data=b'{"name":"n"}', headers={"content-type": media}
    )

    assert response.status == status
    if status == 415:
        assert response.error["code"] == "UNSUPPORTED_MEDIA_TYPE"


async def test_body_within_the_limit_arrives_whole(edge: Edge) -> None:
    """More than a connection buffers."""
    body = b'{"records":[' + b",".join(b'{"request_id":"%d"}' % i for i in range(2_500)) + b"]}"
    response = await edge.call("POST", "/v1/usage/records", data=body, headers=JSON)

    assert len(body) > BUFFER_BYTES
    assert (response.status, int(response.json["accepted"])) == (200, 2_500)


async def test_large_response_is_complete(edge: Edge) -> None:
    response = await edge.call("GET", "/admin/tenants/large")

    assert (response.status, len(response.json["name"])) == (200, LARGE)


async def test_flat_list_is_a_bare_array_with_its_total(edge: Edge) -> None:
    """An HttpBody is passed as it is, beside `X-Total-Count`."""
    response = await edge.call("GET", "/admin/regions")

    assert [region["code"] for region in response.json] == ["us-east", "eu-west"]
    assert response.headers["x-total-count"] == "2"


async def test_export_streams_and_its_refusal_is_an_object(edge: Edge) -> None:
    """A stream of HttpBody is one body of its own media type; its error is JSON."""
    export = await edge.call("GET", "/admin/tenants/t1/export")
    refused = await edge.call("GET", "/admin/tenants/missing/export")

    assert (export.headers["content-type"], export.body) == (
        "application/zip",
        b"".join(EXPORT_CHUNKS),
    )
    assert (refused.status, refused.error["code"]) == (404, "TENANT_NOT_FOUND")


async def test_escaped_slash_stays_within_its_segment(edge: Edge) -> None:
    """`%2F` is part of the name, not a separator; `+` in a query is a space."""
    await edge.call("GET", "/admin/tenants/a%2Fb")
    slash = edge.backend.seen.request.id
    await edge.call("GET", "/admin/tenants?search=a+b%2Bc")

    assert slash == "a/b"
    assert edge.backend.seen.request.search == "a b+c"


@pytest.mark.parametrize(
    ("path", "seconds"),
    [("/admin/tenants/t1", 30), ("/v1/usage/by-hour", 60), ("/admin/tenants/t1/export", None)],
)
async def test_calls_carry_their_deadline(edge: Edge, path: str, seconds: int | None) -> None:
    """30 s, 60 s for analytics, none for streams; a client's grpc-timeout changes nothing."""
    await edge.call("GET", path, headers={"grpc-timeout": "1S"})
    left = edge.backend.seen.seconds_left

    if seconds is None:
        assert left is None or left > 3600
    else:
        assert left is not None
        assert seconds - 5 < left <= seconds
