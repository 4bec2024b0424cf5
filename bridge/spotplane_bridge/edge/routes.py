"""Envoy's route table: the upstream, deadline, body limit and retries of every path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from spotplane_bridge import body_limits, headers
from spotplane_bridge.edge import descriptors
from spotplane_bridge.edge.clusters import BRIDGE_CLUSTER, GRPC_CLUSTER, type_url
from spotplane_bridge.edge.config import EdgeConfig, Exposed

LUA: Final = "envoy.filters.http.lua"
TRANSCODER: Final = "envoy.filters.http.grpc_json_transcoder"
BUFFER: Final = "envoy.filters.http.buffer"
HEADERS: Final = "envoy.filters.http.header_mutation"
CORS: Final = "envoy.filters.http.cors"
# Heartbeats keep the streams of agents alive; watches have heartbeats of their own.
STREAM_IDLE: Final = "300s"
# The server itself ends an expired call with its error object; this timeout applies when the
# server cannot.
TIMEOUT_SLACK_SECONDS: Final = 2
ANALYTICS_SERVICE: Final = "spotplane.v1.UsageService"

# The id as the client sent it, while the request is inside Envoy.
CLIENT_ID: Final = "x-spotplane-client-id"
# The id under which the edge logs a request to the bridge.
EDGE_ID: Final = "x-edge-request-id"
# Requests the server's headers before its response: the transcoder drops later ones.
FRONTEND: Final = "x-spotplane-door"
# The connection manager sets `Server`.
SECURITY_HEADERS: Final = {
    name.lower(): value for name, value in headers.SECURITY.items() if name != "Server"
}

# Echoes X-Correlation-ID to clients that sent it.
_CORRELATION_ECHO: Final = (
    "%CEL('x-correlation-id' in request.headers ? request.headers['x-request-id'] : '')%"
)

Route = dict[str, object]

# A path that Envoy would merge and the bridge does not have; the query is not part of it.
EMPTY_SEGMENT: Final = ".*//.*"
BRIDGE_PATHS: Final = {
    Exposed.METRICS: ("/metrics",),
    Exposed.DOCS: ("/openapi.json", "/api/v1/admin/openapi.yaml", "/api-docs"),
}

# No part of the request reached a host, or the host reported that it did not process it.
UNSENT: Final = "connect-failure,refused-stream,reset-before-request"
# For requests that may be processed twice: retried after a broken connection as well.
REPEATABLE: Final = f"{UNSENT},reset,unavailable"
# Methods without side effects (AIP-131 and AIP-132).
READ_RPCS: Final = r"/spotplane\.v1\.\w+/(Get|List|Search|Validate)\w*"


def virtual_host(config: EdgeConfig) -> dict[str, object]:
    """Return all routes; the first match is used."""
    return {
        "name": "spotplane",
        "domains": ["*"],
        "typed_per_filter_config": {CORS: _cors_policy(config)},
        "routes": [
            *_grpc_routes(config),
            *_hidden_routes(config),
            # The bridge serves these on both public addresses.
            _preflight_route(),
            _at(_bridge_route(), {"safe_regex": {"regex": EMPTY_SEGMENT}}),
            *_stream_routes(config),
            *(_repeatable(route) for route in _analytics_routes(config)),
            *_large_body_routes(config),
            *(
                route
                for prefix in descriptors.transcoded_prefixes()
                for route in _with_body_limit(
                    _by_method(
                        _transcoded(
                            config, {"path_separated_prefix": prefix}, config.unary_timeout_seconds
                        )
                    ),
                    min(body_limits.SMALL_BYTES, config.max_body_bytes),
                )
            ),
            *_by_method(_bridge_route()),
        ],
    }


def set_header(key: str, value: str) -> dict[str, object]:
    """Set a header, or leave it unchanged when the value is empty."""
    return {"append": header_options({key: value})[0]}


def header_options(values: dict[str, str]) -> list[dict[str, object]]:
    """Set headers, replacing those of the upstream."""
    return [
        {
            "header": {"key": key, "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for key, value in values.items()
    ]


def _by_method(route: Route) -> list[Route]:
    """Split a route by method: reads, writes with an idempotency key, and all other requests."""
    reads = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    return [_repeatable(_matching(route, reads)), *_keyed(route)]


def _keyed(route: Route) -> list[Route]:
    """Split a route: requests with an idempotency key, and all others."""
    return [
        _repeatable(_matching(route, {"name": "idempotency-key", "present_match": True})),
        route,
    ]


def _matching(route: Route, header: Mapping[str, object]) -> Route:
    match: Any = route["match"]
    return {**route, "match": {**match, "headers": [*match.get("headers", ()), header]}}


def _at(route: Route, path: Mapping[str, object]) -> Route:
    """Return the route at other paths."""
    match: Any = route["match"]
    return {**route, "match": {**path, **{key: match[key] for key in match if key != "prefix"}}}


def _repeatable(route: Route) -> Route:
    """Return the route for requests that may be processed twice."""
    action: Any = route["route"]
    return {**route, "route": {**action, "retry_policy": _retry_policy(REPEATABLE)}}


def _retry_policy(conditions: str) -> dict[str, object]:
    """Retry a request at a host that has not failed it, within the cluster's retry limit."""
    return {
        "retry_on": conditions,
        "num_retries": 2,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": type_url(
                        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    )
                },
            }
        ],
        # A failed host has the fewest requests, so that three of four choices between two hosts
        # select it.
        "host_selection_retry_max_attempts": 32,
    }


def _grpc_routes(config: EdgeConfig) -> list[Route]:
    """Return gRPC routes: streams without a deadline, other calls with one."""
    route = _grpc_route()
    action: Any = route["route"]
    seconds = config.body_timeout_seconds + config.analytics_timeout_seconds
    lasting = {"max_stream_duration": {"max_stream_duration": f"{seconds}s"}}
    unary: Route = {**route, "route": {**action, **lasting}}
    hidden = (
        [] if Exposed.REFLECTION in config.exposed else [_hidden("/grpc.reflection.", grpc=True)]
    )
    return [
        *hidden,
        *(_at(route, {"path": path}) for path in descriptors.stream_paths()),
        _repeatable(_at(unary, {"safe_regex": {"regex": READ_RPCS}})),
        *_keyed(unary),
    ]


def _hidden_routes(config: EdgeConfig) -> list[Route]:
    """Return 404 routes for the bridge's paths that the public address does not expose."""
    return [
        _hidden(path)
        for what, paths in BRIDGE_PATHS.items()
        if what not in config.exposed
        for path in paths
    ]


def _hidden(path: str, *, grpc: bool = False) -> Route:
    match: dict[str, object] = {"prefix": path, "grpc": {}} if grpc else {"path": path}
    return {"name": "hidden", "match": match, "direct_response": {"status": 404}}


def _preflight_route() -> Route:
    """Return the route of CORS preflight requests, which the bridge handles for every path."""
    route = _bridge_route()
    filters: Any = route["typed_per_filter_config"]
    options = {"name": ":method", "string_match": {"exact": "OPTIONS"}}
    return {
        **_matching(route, options),
        "typed_per_filter_config": {**filters, CORS: _disabled()},
    }


def _disabled() -> dict[str, object]:
    return {"@type": type_url("envoy.config.route.v3.FilterConfig"), "disabled": True}


def _large_body_routes(config: EdgeConfig) -> list[Route]:
    """Return routes with larger bodies than others: small bodies here, others at the bridge.

    The transcoder buffers a whole body before the caller is authenticated. The bridge verifies the
    credential first and has one memory limit for all large bodies.
    """
    small: dict[str, object] = {
        "name": "content-length",
        "range_match": {"start": 0, "end": body_limits.SMALL_BYTES + 1},
    }
    return [
        route
        for binding in descriptors.bindings()
        if body_limits.body_bytes(f"{binding.service}/{binding.rpc}") > body_limits.SMALL_BYTES
        for route in (
            *_keyed(
                _matching(
                    _buffered(
                        _transcoded(config, _exact(binding), config.unary_timeout_seconds),
                        body_limits.SMALL_BYTES,
                    ),
                    small,
                )
            ),
            *_keyed(_at(_bridge_route(), _exact(binding))),
        )
    ]


def _with_body_limit(routes: list[Route], limit: int) -> list[Route]:
    """Limit the body of routes; a longer one is rejected at once by its announced length."""
    announced: dict[str, object] = {
        "name": "content-length",
        "range_match": {"start": limit + 1, "end": 2**63 - 1},
    }
    match: Any = routes[-1]["match"]
    too_large: Route = {
        "name": "too-large",
        "match": {**match, "headers": [*match.get("headers", ()), announced]},
        "direct_response": {"status": 413},
    }
    return [too_large, *(_buffered(route, limit) for route in routes)]


def _buffered(route: Route, limit: int) -> Route:
    buffer = {
        "@type": type_url("envoy.extensions.filters.http.buffer.v3.BufferPerRoute"),
        # The transcoder's own limit does not count what it transcodes while reading.
        "buffer": {"max_request_bytes": limit},
    }
    filters: Any = route["typed_per_filter_config"]
    return {**route, "typed_per_filter_config": {**filters, BUFFER: buffer}}


def _grpc_route() -> Route:
    return {
        "name": "grpc",
        # Content types application/grpc and application/grpc+…, but not application/grpc-web.
        "match": {"prefix": "/", "grpc": {}},
        "route": {
            "cluster": GRPC_CLUSTER,
            "timeout": "0s",
            "idle_timeout": STREAM_IDLE,
            "retry_policy": _retry_policy(UNSENT),
        },
        "request_headers_to_remove": [CLIENT_ID],
        # Headers for browsers are of no use to gRPC.
        "typed_per_filter_config": {HEADERS: _disabled()},
    }


def _bridge_route() -> Route:
    return {
        "name": "bridge",
        "match": {"prefix": "/"},
        # The bridge sets a deadline on every call itself, and its event streams have no deadline.
        "route": {
            "cluster": BRIDGE_CLUSTER,
            "timeout": "0s",
            "idle_timeout": STREAM_IDLE,
            "retry_policy": _retry_policy(UNSENT),
        },
        "typed_per_filter_config": {HEADERS: _bridge_ids()},
    }


def _bridge_ids() -> dict[str, object]:
    """Forward the client's X-Request-ID only: under `/api/**` it makes a write idempotent."""
    return {
        "@type": type_url(
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"
        ),
        "mutations": {
            "request_mutations": [
                set_header(EDGE_ID, "%REQ(X-REQUEST-ID)%"),
                {"remove": "x-request-id"},
                set_header("x-request-id", f"%REQ({CLIENT_ID})%"),
                {"remove": CLIENT_ID},
            ]
        },
    }


def _stream_routes(config: EdgeConfig) -> list[Route]:
    """Return the routes of streamed responses: no deadline, only the idle timeout."""
    return [
        _buffered(_transcoded(config, _exact(binding), None), body_limits.SMALL_BYTES)
        for binding in descriptors.bindings()
        if binding.streams_response
    ]


def _analytics_routes(config: EdgeConfig) -> list[Route]:
    return [
        _buffered(
            _transcoded(config, _exact(binding), config.analytics_timeout_seconds),
            body_limits.SMALL_BYTES,
        )
        for binding in descriptors.bindings()
        if binding.service == ANALYTICS_SERVICE and binding.verb == "GET"
    ]


def _exact(binding: descriptors.Binding) -> dict[str, object]:
    """Match one binding: its verb and its path."""
    return {
        "safe_regex": {"regex": template_regex(binding.template)},
        "headers": [{"name": ":method", "string_match": {"exact": binding.verb}}],
    }


def path_variables() -> list[tuple[str, list[str]]]:
    """Return Lua patterns of the paths with variables, each with the names of the variables.

    Covers only routes without a body; names are lower-case without underscores, which matches
    both spellings that the transcoder accepts.
    """
    found: dict[str, set[str]] = {}
    for binding in descriptors.bindings():
        names = re.findall(r"{(\w+)", binding.template)
        if names and not binding.body:
            literal = re.sub(r"[^\w/{}=*]", r"%\g<0>", binding.template)
            pattern = re.sub(r"{\w+=\*\*}", ".+", literal)
            pattern = re.sub(r"{[^}]*}", "[^/]+", pattern)
            folded = {name.replace("_", "").lower() for name in names}
            found.setdefault(f"^{pattern}/?$", set()).update(folded)
    return [(pattern, sorted(names)) for pattern, names in sorted(found.items())]


def template_regex(template: str) -> str:
    """Return a path template as a regular expression for a whole path without its query."""

    def segment(part: str) -> str:
        if not part.startswith("{"):
            return re.escape(part)
        return ".+" if part.endswith("=**}") else "[^/]+"

    return "/".join(segment(part) for part in template.split("/"))


def _transcoded(config: EdgeConfig, match: dict[str, object], seconds: int | None) -> Route:
    """Return a route through the transcoder to the server.

    The deadline travels as `grpc-timeout`, which replaces the client's: REST has no such header.
    """
    enabled = {"@type": type_url("envoy.config.route.v3.FilterConfig"), "config": {}}
    route: Route = {
        "name": "transcoded",
        "match": match,
        "route": {
            "cluster": GRPC_CLUSTER,
            "timeout": "0s" if seconds is None else f"{seconds + TIMEOUT_SLACK_SECONDS}s",
            "idle_timeout": STREAM_IDLE,
            "retry_policy": _retry_policy(UNSENT),
        },
        "request_headers_to_remove": [CLIENT_ID],
        "response_headers_to_add": header_options({"x-correlation-id": _CORRELATION_ECHO}),
        "typed_per_filter_config": {LUA: enabled, BUFFER: enabled, TRANSCODER: enabled},
    }
    added = {FRONTEND: "edge"}
    if seconds is None:
        route["request_headers_to_remove"] = [CLIENT_ID, "grpc-timeout"]
    else:
        lasting = f"{config.body_timeout_seconds + seconds + TIMEOUT_SLACK_SECONDS}s"
        action: Any = route["route"]
        route["route"] = {**action, "max_stream_duration": {"max_stream_duration": lasting}}
        added["grpc-timeout"] = f"{seconds}S"
    route["request_headers_to_add"] = header_options(added)
    return route


def _cors_policy(config: EdgeConfig) -> dict[str, object]:
    return {
        "@type": type_url("envoy.extensions.filters.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": [{"exact": origin} for origin in config.cors_origins],
        "allow_methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
        "allow_headers": "Accept, Authorization, Content-Type, Idempotency-Key, Last-Event-ID, "
        "X-Admin-Token, X-Client-Token, X-Correlation-ID, X-Instance-Id, X-Request-ID, "
        "X-Response-Format",
        "expose_headers": "Content-Disposition, Idempotent-Replayed, Link, Retry-After, "
        "X-Correlation-ID, X-Next-Cursor, X-RateLimit-Limit, X-RateLimit-Remaining, "
        "X-RateLimit-Reset, X-Request-ID, X-Total-Count",
        "max_age": "300",
        "allow_credentials": True,
        # A preflight request of another origin gets no permission, and no response to it either.
        "forward_not_matching_preflights": False,
    }
