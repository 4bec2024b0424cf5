"""Upstreams of the edge: the server and the bridge."""

from __future__ import annotations

import ipaddress
from typing import Final

from spotplane_bridge.edge.config import Address

type_url: Final = "type.googleapis.com/{}".format

GRPC_CLUSTER: Final = "grpc"
BRIDGE_CLUSTER: Final = "bridge"
BUFFER_BYTES: Final = 32 * 1024
# The server's worker processes share one port, and the kernel hands out connections, not streams.
# Few streams per connection spread the agents over the workers.
STREAMS_PER_CONNECTION: Final = 100

HTTP2_WINDOWS: Final[dict[str, object]] = {
    "initial_stream_window_size": 64 * 1024,
    "initial_connection_window_size": 1024 * 1024,
}


def grpc_cluster(upstream: Address) -> dict[str, object]:
    """The server, over HTTP/2 without TLS."""
    http2 = {"max_concurrent_streams": STREAMS_PER_CONNECTION, **HTTP2_WINDOWS}
    return _cluster(GRPC_CLUSTER, upstream, {"http2_protocol_options": http2})


def bridge_cluster(upstream: Address) -> dict[str, object]:
    """The bridge, over HTTP/1.1."""
    return _cluster(BRIDGE_CLUSTER, upstream, {"http_protocol_options": {}})


def socket_address(address: Address) -> dict[str, object]:
    """An address as Envoy spells it."""
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _cluster(name: str, upstream: Address, protocol: dict[str, object]) -> dict[str, object]:
    return {
        "name": name,
        "type": "STATIC" if _is_ip(upstream.host) else "STRICT_DNS",
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "lb_policy": "LEAST_REQUEST",
        # A request is a stream: the limits leave room for agents that hold theirs for days.
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 4096,
                    "max_pending_requests": 8192,
                    "max_requests": 100_000,
                    "max_retries": 64,
                }
            ]
        },
        # TCP probes find a dead peer; HTTP/2 pings would count as abuse at a gRPC server.
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
                "common_http_protocol_options": {"idle_timeout": "300s"},
                "explicit_http_config": protocol,
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(upstream)}}]}],
        },
    }


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
