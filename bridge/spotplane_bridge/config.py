"""Settings of a bridge process, read from `SPOTPLANE_*` variables."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from spotplane_bridge.addresses import parse_upstreams

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

T = TypeVar("T")

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


class ConfigError(ValueError):
    """Some variables have unusable values.

    Args:
        problems: One line for each, starting with the variable's name.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("bad configuration:\n  " + "\n  ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """Settings of a bridge process.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        port_file: Written with the bound port once requests are accepted.
        reuse_port: Let several bridge processes share the port.
        grpc_target: The servers: ``host:port`` or several, separated by commas.
        channels: gRPC connections to each server.
        cors_origins: Origins that browsers may call from, e.g. `https://console.example.com`.
        trusted_proxies: Networks from which `X-Forwarded-For` is trusted.
        max_connections: Open connections at one time, event streams included.
        max_body_mib: Largest request body of any route other than uploads, in MiB.
        body_memory_mib: Memory of all bodies above 64 KiB at one time, in MiB; a caller may use a
            quarter of it.
        body_timeout_s: Time to receive a whole request body, in seconds; uploads have the deadline
            of their call.
        unary_timeout_s: Deadline of a call, in seconds.
        analytics_timeout_s: Deadline of a read of usage or metrics, in seconds.
        stream_idle_timeout_s: Longest time without a message in a streamed response, in seconds.
        stream_write_timeout_s: Longest time that a client may take to read what was sent of a
            streamed response, in seconds.
        drain_notice_s: Time in which requests are still accepted after SIGTERM, while `/ready` is
            503, in seconds.
        drain_timeout_s: Time for open requests to finish after SIGTERM, in seconds.
        otlp_endpoint: Collector of traces, by OTLP over gRPC; without it there are no traces.
        log_level: Lowest level that is logged; WARNING disables the line per request.
    """

    host: str = "127.0.0.1"
    port: int = 8081
    port_file: Path | None = None
    reuse_port: bool = False
    grpc_target: str = "127.0.0.1:50051"
    channels: int = 1
    cors_origins: tuple[str, ...] = ("http://localhost:3000",)
    trusted_proxies: tuple[Network, ...] = (
        ipaddress.ip_network("127.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )
    max_connections: int = 4096
    max_body_mib: int = 10
    body_memory_mib: int = 64
    body_timeout_s: float = 30.0
    unary_timeout_s: float = 30.0
    analytics_timeout_s: float = 60.0
    stream_idle_timeout_s: float = 300.0
    stream_write_timeout_s: float = 8.0
    # Three times the interval of the edge's health checks.
    drain_notice_s: float = 3.0
    drain_timeout_s: float = 30.0
    otlp_endpoint: str | None = None
    log_level: str = "INFO"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> BridgeConfig:
        """Read the settings; an unset or empty variable has its default.

        Raises:
            ConfigError: Names every unusable variable, not only the first.
        """
        read, usual = _Reader(env), cls()
        config = cls(
            host=read("SPOTPLANE_BRIDGE_HOST", _text, usual.host),
            port=read("SPOTPLANE_BRIDGE_PORT", _integer(0, 65535), usual.port),
            port_file=read("SPOTPLANE_BRIDGE_PORT_FILE", Path, usual.port_file),
            reuse_port=read("SPOTPLANE_BRIDGE_REUSE_PORT", _switch, usual.reuse_port),
            grpc_target=read("SPOTPLANE_GRPC_TARGET", _target, usual.grpc_target),
            channels=read("SPOTPLANE_BRIDGE_CHANNELS", _integer(1, 64), usual.channels),
            cors_origins=read("SPOTPLANE_CORS_ORIGINS", _origins, usual.cors_origins),
            trusted_proxies=read("SPOTPLANE_TRUSTED_PROXIES", _networks, usual.trusted_proxies),
            max_connections=read(
                "SPOTPLANE_BRIDGE_MAX_CONNECTIONS", _integer(1, 1_000_000), usual.max_connections
            ),
            max_body_mib=read("SPOTPLANE_MAX_BODY_MIB", _integer(1, 1024), usual.max_body_mib),
            body_memory_mib=read(
                "SPOTPLANE_BODY_MEMORY_MIB", _integer(4, 65536), usual.body_memory_mib
            ),
            body_timeout_s=read("SPOTPLANE_BODY_TIMEOUT_S", _seconds, usual.body_timeout_s),
            unary_timeout_s=read("SPOTPLANE_UNARY_TIMEOUT_S", _seconds, usual.unary_timeout_s),
            analytics_timeout_s=read(
                "SPOTPLANE_ANALYTICS_TIMEOUT_S", _seconds, usual.analytics_timeout_s
            ),
            stream_idle_timeout_s=read(
                "SPOTPLANE_STREAM_IDLE_TIMEOUT_S", _seconds, usual.stream_idle_timeout_s
            ),
            stream_write_timeout_s=read(
                "SPOTPLANE_STREAM_WRITE_TIMEOUT_S", _seconds, usual.stream_write_timeout_s
            ),
            drain_notice_s=read(
                "SPOTPLANE_DRAIN_NOTICE_SECONDS", _seconds_or_zero, usual.drain_notice_s
            ),
            drain_timeout_s=read("SPOTPLANE_DRAIN_TIMEOUT_S", _seconds, usual.drain_timeout_s),
            otlp_endpoint=read(
                "SPOTPLANE_OTLP_ENDPOINT",
                _collector,
                read("OTEL_EXPORTER_OTLP_ENDPOINT", _collector, usual.otlp_endpoint),
            ),
            log_level=read("SPOTPLANE_LOG_LEVEL", _level, usual.log_level),
        )
        if read.problems:
            raise ConfigError(read.problems)
        return config


class _Reader:
    """Reads variables and collects their errors."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.problems: list[str] = []

    def __call__(self, name: str, parse: Callable[[str], T], default: T) -> T:
        text = self._env.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as err:
            self.problems.append(f"{name}: {err}")
            return default


def _text(text: str) -> str:
    return text


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be an integer in {low}..{high}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) or float(text) <= 0:
        raise ValueError("must be a number of seconds above 0")
    return float(text)


def _seconds_or_zero(text: str) -> float:
    return 0.0 if re.fullmatch(r"0+(\.0+)?", text) else _seconds(text)


def _target(text: str) -> str:
    return ",".join(str(address) for address in parse_upstreams(text))


def _switch(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise ValueError("must be true or false")
    return text.lower() in {"true", "1"}


def _level(text: str) -> str:
    if text.upper() not in _LEVELS:
        raise ValueError(f"must be one of {', '.join(_LEVELS)}")
    return text.upper()


def _collector(text: str) -> str | None:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must be http://host:port or https://host:port")
    if find_spec("opentelemetry") is None:
        raise ValueError("needs OpenTelemetry; install it with: pip install 'spotplane[otel]'")
    return text


def _origins(text: str) -> tuple[str, ...]:
    origins = _items(text)
    for origin in origins:
        # Responses allow credentials, and browsers reject credentials together with a wildcard.
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin like https://console.example.com")
    return origins


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(item) for item in _items(text))


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())
