"""The generated configuration: accepted by Envoy, kept in the repository, read from variables."""

from __future__ import annotations

import re
from pathlib import Path

import grpc.aio
import pytest
import yaml
from spotplane_bridge.addresses import Address
from spotplane_bridge.edge import descriptors
from spotplane_bridge.edge.config import EdgeConfig, EdgeConfigError
from spotplane_bridge.edge.generate import EdgeInvalidError, render, validate, write
from spotplane_bridge.edge.process import EnvoyError, find_envoy, start_envoy
from spotplane_bridge.edge.routes import template_regex

from tests.envoy.conftest import ANY_PORT

KEPT = Path(__file__).parents[2] / "envoy" / "envoy.yaml"


def test_kept_file_is_what_the_generator_makes() -> None:
    """`python -m spotplane_bridge.edge envoy --as /etc/envoy` leaves no difference."""
    assert render(EdgeConfig()) == KEPT.read_text(encoding="utf-8")


async def test_envoy_accepts_the_default(tmp_path: Path) -> None:
    """The default configuration with its descriptor set loads."""
    await validate(find_envoy(), write(EdgeConfig(), tmp_path))


async def test_envoy_accepts_every_setting(tmp_path: Path) -> None:
    """Names instead of addresses, IPv6, several origins, trusted hops."""
    config = EdgeConfig.from_env(
        {
            "SPOTPLANE_EDGE_LISTEN": "[::]:8443",
            "SPOTPLANE_EDGE_GRPC_UPSTREAM": "server.internal:50051",
            "SPOTPLANE_EDGE_BRIDGE_UPSTREAM": "bridge.internal:8081, [::1]:8082,10.0.0.1:8083",
            "SPOTPLANE_CORS_ORIGINS": "https://a.example, https://b.example",
            "SPOTPLANE_EDGE_TRUSTED_HOPS": "2",
            "SPOTPLANE_MAX_BODY_MIB": "3",
        }
    )

    await validate(find_envoy(), write(config, tmp_path))


async def test_rejection_has_a_reason(tmp_path: Path) -> None:
    path = write(EdgeConfig(), tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("STATIC", "ECSTATIC"))

    with pytest.raises(EdgeInvalidError, match="ECSTATIC"):
        await validate(find_envoy(), path)


async def test_failed_start_has_a_reason(tmp_path: Path) -> None:
    taken = grpc.aio.server()
    port = taken.add_insecure_port("127.0.0.1:0")
    await taken.start()
    config = EdgeConfig(listen=Address("127.0.0.1", 0), admin=Address("127.0.0.1", port))
    try:
        with pytest.raises(EnvoyError, match=r"(?i)address already in use"):
            await start_envoy(config, tmp_path, tmp_path / "log")
    finally:
        await taken.stop(None)


async def test_a_port_in_use_is_not_shared_with_another_edge(tmp_path: Path) -> None:
    first = await start_envoy(
        EdgeConfig(listen=ANY_PORT, admin=ANY_PORT), tmp_path / "a", tmp_path / "a.log"
    )
    config = EdgeConfig(listen=first.listen, admin=ANY_PORT)
    try:
        with pytest.raises(EnvoyError, match=r"(?i)address already in use"):
            await start_envoy(config, tmp_path / "b", tmp_path / "b.log")
    finally:
        await first.stop()


def test_several_upstreams_are_read_from_one_variable() -> None:
    config = EdgeConfig.from_env(
        {
            "SPOTPLANE_EDGE_GRPC_UPSTREAM": "10.0.0.1:50051, [::1]:50052",
            "SPOTPLANE_EDGE_BRIDGE_UPSTREAM": "bridge.internal:8081",
        }
    )

    assert config.grpc_upstreams == (Address("10.0.0.1", 50051), Address("::1", 50052))
    assert config.bridge_upstreams == (Address("bridge.internal", 8081),)


@pytest.mark.parametrize(
    "text",
    ["a:1,b", "a:1,,b:2", "a:1 b:2", "a:0", ":1", "a:65536", "a:1,a:1", "::1:80", "http://a:1"],
)
def test_bad_upstreams_are_rejected(text: str) -> None:
    with pytest.raises(EdgeConfigError, match="SPOTPLANE_EDGE_GRPC_UPSTREAM: "):
        EdgeConfig.from_env({"SPOTPLANE_EDGE_GRPC_UPSTREAM": text})


def test_every_bad_variable_is_named() -> None:
    env = {
        "SPOTPLANE_EDGE_LISTEN": "nowhere",
        "SPOTPLANE_EDGE_TRUSTED_HOPS": "-1",
        "SPOTPLANE_EDGE_TLS_CERT_FILE": "/tmp/cert.pem",
        "SPOTPLANE_CORS_ORIGINS": "*",
    }
    with pytest.raises(EdgeConfigError) as caught:
        EdgeConfig.from_env(env)

    for name in env:
        assert name in str(caught.value)


def test_empty_variables_keep_defaults() -> None:
    assert EdgeConfig.from_env({"SPOTPLANE_EDGE_LISTEN": " "}) == EdgeConfig()


def test_admin_interface_stays_on_loopback() -> None:
    """It can stop the process, so only a setting can move it."""
    bootstrap = yaml.safe_load(render(EdgeConfig(listen=Address("0.0.0.0", 443))))

    assert bootstrap["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_every_annotated_service_is_transcoded() -> None:
    """A service with a route is in the list; one without is not."""
    text = render(EdgeConfig())

    for binding in descriptors.bindings():
        assert f"- {binding.service}\n" in text
    assert "- spotplane.v1.EventService\n" not in text


@pytest.mark.parametrize(
    ("template", "path", "fits"),
    [
        ("/admin/tenants/{id}/export", "/admin/tenants/7/export", True),
        ("/admin/tenants/{id}/export", "/admin/tenants/7/8/export", False),
        ("/v1/models/{model=**}", "/v1/models/a/b", True),
        ("/v1/usage.x", "/v1/usageyx", False),
    ],
)
def test_template_becomes_a_pattern(template: str, path: str, fits: bool) -> None:
    """A variable is one segment, `**` is the rest, everything else is literal."""
    assert bool(re.fullmatch(template_regex(template), path)) is fits


async def test_port_zero_picks_free_ports(tmp_path: Path) -> None:
    config = EdgeConfig(listen=ANY_PORT, admin=ANY_PORT)
    first = await start_envoy(config, tmp_path / "a", tmp_path / "a.log", concurrency=1)
    second = await start_envoy(config, tmp_path / "b", tmp_path / "b.log", concurrency=1)
    ports = {first.listen.port, first.admin.port, second.listen.port, second.admin.port}
    await first.stop()
    await second.stop()

    assert len(ports) == 4
    assert 0 not in ports
