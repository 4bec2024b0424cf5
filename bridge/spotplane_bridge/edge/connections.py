"""Limits of connections per client address."""

from __future__ import annotations

from typing import Final

from spotplane_bridge.edge.clusters import type_url
from spotplane_bridge.edge.config import EdgeConfig

# Envoy 1.40 counts connections per filter chain and not per address. So each address is hashed
# into one of these groups, and each group has a filter chain with its own counter: an address
# that opens connections without limit exhausts its own group only. A chain costs 7 MiB.
GROUPS: Final = 8

_HASHING: Final = "envoy.extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing"
_SOURCE_IP: Final = "envoy.extensions.matching.common_inputs.network.v3.SourceIPInput"
_LIMIT: Final = "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"


class Shared(dict[str, object]):
    """A part of the configuration that is used in several places and written once."""


def filter_chains(config: EdgeConfig, chain: dict[str, object]) -> dict[str, object]:
    """Return the listener's filter chains: one, or one per group of client addresses.

    Behind other proxies all connections come from the proxies' addresses, so there are no groups.

    Args:
        config: The settings.
        chain: The chain without a limit.
    """
    if config.max_connections_per_address == 0 or config.trusted_hops:
        return {"filter_chains": [chain]}
    filters = [Shared(each) for each in _filters(chain)]
    chains = [
        {
            **chain,
            "name": _name(number),
            "filters": [_limit(config.max_connections_per_address), *filters],
        }
        for number in range(GROUPS)
    ]
    return {"filter_chains": chains, "filter_chain_matcher": _matcher()}


def _filters(chain: dict[str, object]) -> list[dict[str, object]]:
    filters = chain["filters"]
    assert isinstance(filters, list)
    return filters


def _limit(connections: int) -> dict[str, object]:
    return {
        "name": "envoy.filters.network.connection_limit",
        "typed_config": {
            "@type": type_url(_LIMIT),
            "stat_prefix": "per_address",
            "max_connections": connections,
        },
    }


def _matcher() -> dict[str, object]:
    """Choose a connection's chain: the last group that the hash of its address reaches."""
    matchers = [
        {"predicate": _reaches(number), "on_match": _chosen(number)}
        for number in range(GROUPS - 1, 0, -1)
    ]
    return {"matcher_list": {"matchers": matchers}, "on_no_match": _chosen(0)}


def _reaches(number: int) -> dict[str, object]:
    return {
        "single_predicate": {
            "input": {"name": "source_ip", "typed_config": {"@type": type_url(_SOURCE_IP)}},
            "custom_match": {
                "name": "group",
                "typed_config": {
                    "@type": type_url(_HASHING),
                    "threshold": number,
                    "modulo": GROUPS,
                },
            },
        }
    }


def _chosen(number: int) -> dict[str, object]:
    value = {"@type": type_url("google.protobuf.StringValue"), "value": _name(number)}
    return {"action": {"name": _name(number), "typed_config": value}}


def _name(number: int) -> str:
    return f"addresses-{number}"
