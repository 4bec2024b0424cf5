"""Settings of the server process, from `SPOTPLANE_*`; every error is reported at once."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from spotplane_server.kernel.auth.client_address import Network

# Read where the variable of our own is not set; what an installation has set for all its programs.
COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"

T = TypeVar("T")


class ConfigError(ValueError):
    """One or more settings are missing or bad; the message has one line for each."""


def _natural(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("must be at least 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("must be at least 0")
    return value


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def _late_days(text: str) -> int:
    # Partitions of the past two months are kept at hand; what is older has nowhere to go.
    value = _natural(text)
    if value > 59:
        raise ValueError("must be at most 59")
    return value


def _level(text: str) -> str:
    if text.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return text.upper()


def _switch(text: str) -> bool:
    values = {"1": True, "true": True, "0": False, "false": False}
    if text.lower() not in values:
        raise ValueError("must be true or false")
    return values[text.lower()]


def _mail_server(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme not in {"smtp", "smtps", "smtp+plain"} or not rest:
        raise ValueError("must be smtp://, smtps:// or smtp+plain:// and a host")
    return text


def _address(text: str) -> str:
    if "@" not in text:
        raise ValueError("must be an e-mail address")
    return text


def _postgres(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be postgresql://…")
    return text


def _redis(text: str) -> str:
    url = urlsplit(text)
    if url.scheme == "unix" and url.path:
        return text
    if url.scheme not in {"redis", "rediss"} or not url.hostname:
        raise ValueError("must be redis://host:port/db, rediss://host:port/db or unix:///path")
    if url.port == 0 or not re.fullmatch(r"(/\d*)?", url.path):
        raise ValueError("must have a port from 1 to 65535 and a database's number")
    return text


def _key(text: str) -> bytes:
    value = base64.b64decode(text, validate=True)
    if len(value) != 32:
        raise ValueError("must be 32 bytes in base64")
    return value


def _collector(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must be http://host:port or https://host:port")
    if find_spec("opentelemetry") is None:
        raise ValueError("needs OpenTelemetry; install it with: pip install 'spotplane[otel]'")
    return text


def _setting(default: Any, read: Callable[[str], Any] = str, also: str = "") -> Any:
    return field(default=default, metadata={"read": read, "also": also})


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of `spotplane server`; each is the variable ``SPOTPLANE_<NAME>`` or ``…_FILE``."""

    database_url: str
    # Of a streaming replica, which answers about usage whenever it is not behind.
    read_database_url: str | None = _setting(None, _postgres)
    analytics_cache_mib: int = _setting(32, _count)  # of one process; 0 keeps no answer
    host: str = _setting("127.0.0.1")
    port: int = _setting(50051, _count)
    admin_port: int = _setting(0, _count)  # metrics; 0 picks a free one
    admin_token: str | None = _setting(None)
    admin_rate_limit_rpm: int = _setting(600, _natural)
    # Where administrators may call from; without it, from anywhere.
    admin_ip_allowlist: tuple[Network, ...] = _setting((), _networks)
    # Networks of the bridge and of Envoy; what is on this host is trusted unless it is set.
    trusted_proxies: tuple[Network, ...] = _setting(_networks("127.0.0.0/8,::1/128"), _networks)
    default_region_code: str = _setting("us-east")
    region_default_max_nodes: int = _setting(100, _natural)
    tenant_rpm: int = _setting(50_000, _natural)
    key_default_rpm: int = _setting(60, _natural)
    key_default_concurrency: int = _setting(5, _natural)
    # How long a permit of a call outlives its server, where budgets are shared by Redis.
    concurrency_lease_seconds: int = _setting(90, _natural)
    auth_failures_per_minute: int = _setting(100, _natural)  # of one address
    # Keeps copies of client tokens under this key, 32 bytes in base64; without it there are none.
    token_escrow_key: bytes | None = _setting(None, _key)
    usage_late_days: int = _setting(35, _late_days)
    usage_future_minutes: int = _setting(5, _natural)
    usage_ingest_slots: int = _setting(4, _natural)  # batches that are stored at the same time
    partitions_ahead: int = _setting(3, _natural)  # months beyond the current one
    launch_estimate_days: int = _setting(30, _natural)
    launch_estimate_min_samples: int = _setting(3, _natural)
    max_body_mib: int = _setting(10, _natural)
    # Streams and calls that one connection may have at the same time: what a connection that resets
    # its calls can make this process queue. Clients with more need more connections.
    max_streams_per_connection: int = _setting(128, _natural)
    # Open streams of events in this process; a dashboard holds one for each page that is open.
    subscriptions_per_credential: int = _setting(200, _natural)
    subscriptions_per_tenant: int = _setting(500, _natural)
    # Until a stream ends whose client takes no response or sends no first message.
    stream_stall_seconds: int = _setting(8, _natural)
    heartbeat_seconds: int = _setting(5, _natural)
    offline_seconds: int = _setting(120, _natural)
    # A Redis or Valkey that all servers share; without it each keeps budgets and caches of its own.
    redis_url: str | None = _setting(None, _redis)
    db_pool_size: int = _setting(10, _natural)
    # How long calls are still accepted after SIGTERM while health is NOT_SERVING: three times the
    # interval of the edge's health checks.
    drain_notice_seconds: int = _setting(3, _count)
    drain_seconds: int = _setting(10, _natural)
    # What decides while no uploaded engine is live: a built-in or installed one's name, or the
    # address of a remote one, grpc://host:port or grpcs://host:port.
    decision_engine: str = _setting("rules")
    smtp_url: str | None = _setting(None, _mail_server)  # without it no e-mail is sent
    smtp_sender: str = _setting("spotplane@localhost", _address)
    # Where traces go, by OTLP over gRPC; without it there are none.
    otlp_endpoint: str | None = _setting(None, _collector, also=COLLECTOR)
    # For tests of wrong clocks: added to the machine's clock as this process sees it.
    clock_offset_seconds: int = _setting(0, int)
    log_level: str = _setting("INFO", _level)
    log_json: bool = _setting(True, _switch)


def load(env: Mapping[str, str] | None = None) -> ServerConfig:
    """Read the settings.

    Raises:
        ConfigError: Names every variable that is missing or bad.
    """
    return read(ServerConfig, os.environ if env is None else env)


def read(config: type[T], env: Mapping[str, str]) -> T:
    """Read a settings dataclass from ``SPOTPLANE_<NAME>`` and ``SPOTPLANE_<NAME>_FILE``.

    Raises:
        ConfigError: Names every variable that is missing or bad.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    for item in fields(config):  # type: ignore[arg-type]
        name = f"SPOTPLANE_{item.name.upper()}"
        try:
            text = _text(name, env)
            if text is None:
                text = env.get(item.metadata.get("also", "")) or None
            if text is not None:
                values[item.name] = item.metadata.get("read", str)(text)
            elif "read" not in item.metadata:
                faults.append(f"{name} is required")
        except (ValueError, OSError) as err:
            faults.append(f"{name}: {err}")
    if faults:
        raise ConfigError("\n".join(faults))
    return config(**values)


def _text(name: str, env: Mapping[str, str]) -> str | None:
    path = env.get(f"{name}_FILE")
    if path:
        return Path(path).read_text(encoding="utf-8").strip()
    return env.get(name)
