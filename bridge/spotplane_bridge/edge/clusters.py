"""Upstream clusters of the edge: servers and bridges, their health checks and load balancing."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from spotplane_bridge.addresses import Address

type_url: Final = "type.googleapis.com/{}".format

GRPC_CLUSTER: Final = "grpc"
BRIDGE_CLUSTER: Final = "bridge"
BUFFER_BYTES: Final = 32 * 1024
# The server's worker processes share one port, and the kernel distributes connections, not
# streams. Few streams per connection spread the agents over the workers.
STREAMS_PER_CONNECTION: Final = 100

HTTP2_WINDOWS: Final[dict[str, object]] = {
    "initial_stream_window_size": 64 * 1024,
    "initial_connection_window_size": 1024 * 1024,
}

# A draining host reports NOT_SERVING (503 at a bridge), which removes it after one check. Servers
# and bridges keep serving for longer than this while they drain (`drain_notice_seconds`).
HEALTH_INTERVAL: Final = "1s"
# Timed-out and refused checks count; a busy host may miss two.
HEALTH_FAILURES: Final = 3
# With no healthy host, requests go to all of them: a restarted host is used at once, and the
# error of a host that is up but not ready names its cause.
PANIC_PERCENT: Final = 1
# Share of a cluster's active requests that may be retries: with two hosts, half of them may be on
# the one that fails.
RETRY_BUDGET_PERCENT: Final = 50
MIN_RETRY_CONCURRENCY: Final = 100
# Detects a host that is paused or unreachable while requests wait for it. The kernel of a paused
# process still acknowledges TCP, so TCP probes alone would not.
HTTP2_PING: Final = {"interval": "10s", "timeout": "5s"}


def grpc_cluster(upstreams: Sequence[Address]) -> dict[str, object]:
    """Return the cluster of servers, over HTTP/2 without TLS."""
    http2 = {
        "max_concurrent_streams": STREAMS_PER_CONNECTION,
        **HTTP2_WINDOWS,
        "connection_keepalive": HTTP2_PING,
    }
    check: dict[str, object] = {"grpc_health_check": {}, "timeout": "1s"}
    return _cluster(GRPC_CLUSTER, upstreams, {"http2_protocol_options": http2}, check)


def bridge_cluster(upstreams: Sequence[Address]) -> dict[str, object]:
    """Return the cluster of bridges, over HTTP/1.1."""
    # Longer than a bridge waits for its server's response.
    check: dict[str, object] = {"http_health_check": {"path": "/ready"}, "timeout": "3s"}
    return _cluster(BRIDGE_CLUSTER, upstreams, {"http_protocol_options": {}}, check)


def socket_address(address: Address) -> dict[str, object]:
    """Return an address in Envoy's form."""
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _cluster(
    name: str,
    upstreams: Sequence[Address],
    protocol: dict[str, object],
    health_check: dict[str, object],
) -> dict[str, object]:
    named = any(not _is_ip(upstream.host) for upstream in upstreams)
    endpoints = [{"endpoint": {"address": socket_address(upstream)}} for upstream in upstreams]
    return {
        "name": name,
        "type": "STRICT_DNS" if named else "STATIC",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": PANIC_PERCENT}},
        "health_checks": [_health_check(health_check)],
        "outlier_detection": _outlier_detection(),
        # A request is a stream: the limits leave room for agents that hold their streams for days.
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 4096,
                    "max_pending_requests": 8192,
                    "max_requests": 100_000,
                    "retry_budget": {
                        "budget_percent": {"value": RETRY_BUDGET_PERCENT},
                        "min_retry_concurrency": MIN_RETRY_CONCURRENCY,
                    },
                }
            ]
        },
        "upstream_connection_options": {
            "tcp_keepalive": {
                "keepalive_probes": 3,
                "keepalive_time": 30,
                "keepalive_interval": 10,
            }
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": type_url("envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
                "common_http_protocol_options": {"idle_timeout": "60s"},
                "explicit_http_config": protocol,
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    }


def _health_check(kind: dict[str, object]) -> dict[str, object]:
    return {
        **kind,
        "interval": HEALTH_INTERVAL,
        "no_traffic_interval": HEALTH_INTERVAL,
        "unhealthy_threshold": HEALTH_FAILURES,
        "healthy_threshold": 1,
    }


def _outlier_detection() -> dict[str, object]:
    """Eject a host that refuses or breaks connections before its next health check is due."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        # Statuses are left to the health check: the failing calls of one tenant are no evidence
        # about a host.
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "1s",
        # The first health check that succeeds ends an ejection.
        "base_ejection_time": "10s",
        "max_ejection_time": "30s",
        "max_ejection_percent": 100,
    }


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
