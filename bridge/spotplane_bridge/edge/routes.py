"""Which request goes where."""

from __future__ import annotations

import re
from typing import Final

from spotplane_bridge.edge import descriptors
from spotplane_bridge.edge.clusters import BRIDGE_CLUSTER, GRPC_CLUSTER, type_url
from spotplane_bridge.edge.config import EdgeConfig

LUA: Final = "envoy.filters.http.lua"
TRANSCODER: Final = "envoy.filters.http.grpc_json_transcoder"
BUFFER: Final = "envoy.filters.http.buffer"
HEADERS: Final = "envoy.filters.http.header_mutation"
CORS: Final = "envoy.filters.http.cors"
# Agents' streams are kept alive by heartbeats, watches by their own.
STREAM_IDLE: Final = "300s"
# The server answers an expired call itself, with its error object; this is for when it cannot.
TIMEOUT_SLACK_SECONDS: Final = 2
ANALYTICS_SERVICE: Final = "spotplane.v1.UsageService"

SECURITY_HEADERS: Final = {
    "cache-control": "no-store",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "permissions-policy": "geolocation=(), camera=(), microphone=()",
}

Route = dict[str, object]


def virtual_host(config: EdgeConfig) -> dict[str, object]:
    """All routes, first match wins."""
    return {
        "name": "spotplane",
        "domains": ["*"],
        "typed_per_filter_config": {CORS: _cors_policy(config)},
        "routes": [
            _grpc_route(),
            *_stream_routes(),
            *_analytics_routes(config),
            *(
                _transcoded({"path_separated_prefix": prefix}, config.unary_timeout_seconds)
                for prefix in descriptors.transcoded_prefixes()
            ),
            _bridge_route(),
        ],
    }


def header_options(headers: dict[str, str]) -> list[dict[str, object]]:
    """Headers to set, over whatever the upstream said."""
    return [
        {
            "header": {"key": key, "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for key, value in headers.items()
    ]


def _grpc_route() -> Route:
    return {
        "name": "grpc",
        # Content types application/grpc and application/grpc+…, but not application/grpc-web.
        "match": {"prefix": "/", "grpc": {}},
        "route": {"cluster": GRPC_CLUSTER, "timeout": "0s", "idle_timeout": STREAM_IDLE},
        # What browsers are told is of no use to gRPC.
        "typed_per_filter_config": {
            HEADERS: {"@type": type_url("envoy.config.route.v3.FilterConfig"), "disabled": True}
        },
    }


def _bridge_route() -> Route:
    return {
        "name": "bridge",
        "match": {"prefix": "/"},
        # The bridge sets a deadline on every call itself, and its event streams have none.
        "route": {
            "cluster": BRIDGE_CLUSTER,
            "timeout": "0s",
            "idle_timeout": STREAM_IDLE,
            # Only what provably never reached the bridge is sent again.
            "retry_policy": {"retry_on": "connect-failure", "num_retries": 1},
        },
    }


def _stream_routes() -> list[Route]:
    """Streamed answers have no deadline, only the idle timeout."""
    return [
        _transcoded(_exact(binding), None)
        for binding in descriptors.bindings()
        if binding.streams_response
    ]


def _analytics_routes(config: EdgeConfig) -> list[Route]:
    return [
        _transcoded(_exact(binding), config.analytics_timeout_seconds)
        for binding in descriptors.bindings()
        if binding.service == ANALYTICS_SERVICE and binding.verb == "GET"
    ]


def _exact(binding: descriptors.Binding) -> dict[str, object]:
    """Match one binding: its verb and its path."""
    return {
        "safe_regex": {"regex": template_regex(binding.template)},
        "headers": [{"name": ":method", "string_match": {"exact": binding.verb}}],
    }


def template_regex(template: str) -> str:
    """A path template as a regular expression for a whole path without its query."""

    def segment(part: str) -> str:
        if not part.startswith("{"):
            return re.escape(part)
        return ".+" if part.endswith("=**}") else "[^/]+"

    return "/".join(segment(part) for part in template.split("/"))


def _transcoded(match: dict[str, object], seconds: int | None) -> Route:
    """A route through the transcoder to the server.

    The deadline travels as `grpc-timeout`; a client's own is replaced, REST has no such header.
    """
    enabled = {"@type": type_url("envoy.config.route.v3.FilterConfig"), "config": {}}
    route: Route = {
        "name": "transcoded",
        "match": match,
        "route": {
            "cluster": GRPC_CLUSTER,
            "timeout": "0s" if seconds is None else f"{seconds + TIMEOUT_SLACK_SECONDS}s",
            "idle_timeout": STREAM_IDLE,
            "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 1},
        },
        "typed_per_filter_config": {LUA: enabled, BUFFER: enabled, TRANSCODER: enabled},
    }
    if seconds is None:
        route["request_headers_to_remove"] = ["grpc-timeout"]
    else:
        route["request_headers_to_add"] = header_options({"grpc-timeout": f"{seconds}S"})
    return route


def _cors_policy(config: EdgeConfig) -> dict[str, object]:
    return {
        "@type": type_url("envoy.extensions.filters.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": [{"exact": origin} for origin in config.cors_origins],
        "allow_methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
        "allow_headers": "Authorization, X-Admin-Token, Content-Type, X-Request-ID, "
        "X-Correlation-ID, Last-Event-ID",
        "expose_headers": "X-Request-ID, X-RateLimit-Limit, X-RateLimit-Remaining, "
        "X-RateLimit-Reset, Retry-After, Link, X-Total-Count",
        "max_age": "300",
        "allow_credentials": True,
        # Another origin's preflight gets no permission, and no route's answer either.
        "forward_not_matching_preflights": False,
    }
