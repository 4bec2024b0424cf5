"""Settings: from the environment, and all errors at once."""

from __future__ import annotations

import ipaddress

import pytest
from spotplane_bridge.config import BridgeConfig, ConfigError


def test_nothing_set_is_the_documented_default() -> None:
    """Empty variables count as not set."""
    config = BridgeConfig.from_env({"SPOTPLANE_BRIDGE_PORT": " "})
    assert config == BridgeConfig()
    assert (config.host, config.port, config.grpc_target) == ("127.0.0.1", 8081, "127.0.0.1:50051")


def test_every_bad_variable_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        BridgeConfig.from_env(
            {
                "SPOTPLANE_BRIDGE_PORT": "70000",
                "SPOTPLANE_CORS_ORIGINS": "http://a, *",
                "SPOTPLANE_TRUSTED_PROXIES": "10.0.0.0/8,nowhere",
                "SPOTPLANE_UNARY_TIMEOUT_S": "0",
                "SPOTPLANE_BRIDGE_REUSE_PORT": "maybe",
                "SPOTPLANE_LOG_LEVEL": "loud",
                "SPOTPLANE_MAX_BODY_MIB": "10",
            }
        )
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "SPOTPLANE_BRIDGE_PORT",
        "SPOTPLANE_BRIDGE_REUSE_PORT",
        "SPOTPLANE_CORS_ORIGINS",
        "SPOTPLANE_TRUSTED_PROXIES",
        "SPOTPLANE_UNARY_TIMEOUT_S",
        "SPOTPLANE_LOG_LEVEL",
    ]


def test_lists_are_parted_by_commas() -> None:
    """Spaces around the items do not matter."""
    config = BridgeConfig.from_env(
        {
            "SPOTPLANE_CORS_ORIGINS": "https://a.example, http://localhost:3000",
            "SPOTPLANE_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        }
    )
    assert config.cors_origins == ("https://a.example", "http://localhost:3000")
    assert config.trusted_proxies[1] == ipaddress.ip_network("::1")
