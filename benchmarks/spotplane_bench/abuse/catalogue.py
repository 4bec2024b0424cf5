"""All attacks, and how hard each is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spotplane_bench.abuse import (
    attacks_agent,
    attacks_anonymous,
    attacks_edge,
    attacks_http2,
    attacks_streams,
)
from spotplane_bench.abuse.target import Attack, Size

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """An attack, its size in the benchmark, and its size in the tests."""

    attack: Attack
    full: Size
    tiny: Size


def _bomb(attack: Attack) -> Entry:
    return Entry(attack, Size(5, 40, 0, 10 * MIB - 100), Size(5, 4, 0, MIB))


def _edge(attack: Attack, connections: int, body_bytes: int = 10 * MIB - 100) -> Entry:
    return Entry(attack, Size(5, 0, connections, body_bytes), Size(1, 0, 4, 256 * 1024))


def _frames(attack: Attack) -> Entry:
    return Entry(attack, Size(5, 200_000, 0, 0), Size(2, 8_000, 0, 0))


def _streams(attack: Attack, connections: int) -> Entry:
    return Entry(attack, Size(5, 0, connections, 0), Size(1, 0, 4, 0))


def _slow(attack: Attack, connections: int, count: int) -> Entry:
    return Entry(attack, Size(8, count, connections, 0), Size(4, 1_500, 2, 0))


def _agent(attack: Attack) -> Entry:
    return Entry(attack, Size(5, 200_000, 0, 0), Size(3, 2_000, 0, 0))


ATTACKS: Final[dict[str, Entry]] = {
    "gRPC messages of empty submessages, no metadata": _bomb(attacks_anonymous.grpc_bomb),
    "REST usage records, no credential": _bomb(attacks_anonymous.rest_usage_bomb),
    "REST pricing report, unknown token": _bomb(attacks_anonymous.rest_pricing_bomb),
    "REST command of empty lists, unknown token": _bomb(attacks_anonymous.rest_nested_lists),
    "REST command of nested lists, unknown token": _bomb(attacks_anonymous.rest_deep_nesting),
    "Envoy, half-sent bodies": _edge(attacks_edge.half_sent_bodies, 220),
    "Envoy, bodies of a byte per second": _edge(attacks_edge.slow_bytes, 200),
    "Envoy, header lines one per second": _edge(attacks_edge.slow_headers, 200),
    "Envoy, idle connections": _edge(attacks_edge.connection_flood, 1000),
    "Envoy, oversized headers": _edge(attacks_edge.oversized_headers, 100),
    "Envoy, oversized bodies": _edge(attacks_edge.oversized_bodies, 100),
    "rapid reset": _frames(attacks_http2.rapid_reset),
    "PING flood": _frames(attacks_http2.ping_flood),
    "SETTINGS flood": _frames(attacks_http2.settings_flood),
    "agent streams without a hello": _streams(attacks_streams.stream_opening, 3000),
    "event subscriptions by gRPC": _streams(attacks_streams.subscription_opening, 2000),
    "event streams by the bridge": _streams(attacks_streams.sse_opening, 1000),
    "event streams that are not read": _slow(attacks_streams.slow_sse_readers, 50, 2000),
    "event watches that are not read": _slow(attacks_streams.slow_watchers, 180, 2000),
    "agent streams that are not read": _slow(attacks_streams.slow_agent_readers, 20, 2000),
    "heartbeats by one agent": _agent(attacks_agent.heartbeat_flood),
    "price reports by one agent": _agent(attacks_agent.report_flood),
    "command results by one agent": _agent(attacks_agent.result_flood),
    "command progress by one agent": _agent(attacks_agent.progress_flood),
    "reconnects by one agent": _agent(attacks_agent.reconnect_flood),
}
