"""Settings of the edge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final

from spotplane_bridge.addresses import Address, parse_upstreams

DEFAULT_CORS_ORIGINS: Final = ("http://localhost:3000",)
MIB: Final = 1024 * 1024


LISTEN: Final = Address("127.0.0.1", 8080)
GRPC_UPSTREAMS: Final = (Address("127.0.0.1", 50051),)
BRIDGE_UPSTREAMS: Final = (Address("127.0.0.1", 8081),)


class Exposed(StrEnum):
    """Parts of the API that the public address serves only when they are configured."""

    METRICS = "metrics"
    DOCS = "docs"
    REFLECTION = "reflection"


ADMIN: Final = Address("127.0.0.1", 9901)


class EdgeConfigError(ValueError):
    """Unusable settings, each named by its variable."""


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Settings of the generated Envoy configuration.

    Attributes:
        listen: The one public address, for REST and gRPC.
        grpc_upstreams: The servers; a name is resolved by DNS and may stand for many addresses.
        bridge_upstreams: The bridges, likewise.
        admin: Envoy's own admin interface; keep it on loopback, it can stop the process.
        tls_cert_file: PEM chain; with ``tls_key_file`` the listener accepts TLS only.
        tls_key_file: PEM key.
        cors_origins: Origins that browsers may call from, exactly.
        max_body_bytes: Largest JSON request body; a larger one is 413.
        max_response_bytes: Largest unary response that is transcoded; a larger one is 500.
        max_connections: Downstream connections over all listeners; each agent holds one.
        max_connections_per_address: Downstream connections from one address, counted together with
            the other addresses of its group (see `connections`); 0 for no limit.
        exposed: Optional parts of the API on the public address.
        max_heap_bytes: Heap size from which requests are rejected.
        trusted_hops: Proxies in front of this one that append to ``X-Forwarded-For`` truthfully.
        body_timeout_seconds: Time for the body of a request to arrive.
        unary_timeout_seconds: Deadline of transcoded calls.
        analytics_timeout_seconds: Deadline of transcoded calls to the usage service.
    """

    listen: Address = LISTEN
    grpc_upstreams: tuple[Address, ...] = GRPC_UPSTREAMS
    bridge_upstreams: tuple[Address, ...] = BRIDGE_UPSTREAMS
    admin: Address = ADMIN
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    cors_origins: tuple[str, ...] = DEFAULT_CORS_ORIGINS
    max_body_bytes: int = 10 * MIB
    max_response_bytes: int = 16 * MIB
    max_connections: int = 50_000
    max_connections_per_address: int = 12_500
    max_heap_bytes: int = 2048 * MIB
    trusted_hops: int = 0
    exposed: frozenset[Exposed] = frozenset()
    body_timeout_seconds: int = 30
    unary_timeout_seconds: int = 30
    analytics_timeout_seconds: int = 60

    def __post_init__(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise EdgeConfigError("the TLS certificate and its key come together or not at all")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> EdgeConfig:
        """Read ``SPOTPLANE_*``; an absent or empty variable has its default.

        Raises:
            EdgeConfigError: Names every unusable variable, not only the first.
        """
        read = _Reader(environ)
        default = cls()
        config = {
            "listen": read.address("EDGE_LISTEN", default.listen),
            "grpc_upstreams": read.upstreams("EDGE_GRPC_UPSTREAM", default.grpc_upstreams),
            "bridge_upstreams": read.upstreams("EDGE_BRIDGE_UPSTREAM", default.bridge_upstreams),
            "admin": read.address("EDGE_ADMIN", default.admin),
            "tls_cert_file": read.path("EDGE_TLS_CERT_FILE"),
            "tls_key_file": read.path("EDGE_TLS_KEY_FILE"),
            "cors_origins": read.origins("CORS_ORIGINS", default.cors_origins),
            "max_body_bytes": read.number("MAX_BODY_MIB", 10, 1, 1024) * MIB,
            "max_connections": read.number("EDGE_MAX_CONNECTIONS", 50_000, 1, 10_000_000),
            "max_connections_per_address": read.number(
                "EDGE_MAX_CONNECTIONS_PER_ADDRESS", 12_500, 0, 10_000_000
            ),
            "exposed": read.exposed("EDGE_EXPOSE"),
            "max_heap_bytes": read.number("EDGE_MAX_HEAP_MIB", 2048, 128, 1_048_576) * MIB,
            "trusted_hops": read.number("EDGE_TRUSTED_HOPS", 0, 0, 32),
            "body_timeout_seconds": read.number("BODY_TIMEOUT_S", 30, 1, 3600),
            "unary_timeout_seconds": read.number("UNARY_TIMEOUT_S", 30, 1, 3600),
            "analytics_timeout_seconds": read.number("ANALYTICS_TIMEOUT_S", 60, 1, 3600),
        }
        if (config["tls_cert_file"] is None) != (config["tls_key_file"] is None):
            read.problems.append(
                "SPOTPLANE_EDGE_TLS_CERT_FILE and SPOTPLANE_EDGE_TLS_KEY_FILE: set both or none"
            )
        if read.problems:
            raise EdgeConfigError("; ".join(read.problems))
        return cls(**config)  # type: ignore[arg-type]


class _Reader:
    """Reads variables and collects their errors, so that all are reported together."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        return self._environ.get(f"SPOTPLANE_{name}", "").strip() or None

    def address(self, name: str, default: Address) -> Address:
        text = self.text(name)
        if text is None:
            return default
        try:
            return Address.parse(text)
        except ValueError as err:
            self.problems.append(f"SPOTPLANE_{name}: {err}")
            return default

    def upstreams(self, name: str, default: tuple[Address, ...]) -> tuple[Address, ...]:
        text = self.text(name)
        if text is None:
            return default
        try:
            return parse_upstreams(text)
        except ValueError as err:
            self.problems.append(f"SPOTPLANE_{name}: {err}")
            return default

    def number(self, name: str, default: int, low: int, high: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            self.problems.append(f"SPOTPLANE_{name}: {text!r} is not a whole number {low}..{high}")
            return default
        return int(text)

    def exposed(self, name: str) -> frozenset[Exposed]:
        words = [word.strip() for word in (self.text(name) or "").split(",") if word.strip()]
        known = [each.value for each in Exposed]
        for word in words:
            if word not in known:
                self.problems.append(f"SPOTPLANE_{name}: {word!r} is none of {', '.join(known)}")
        return frozenset(Exposed(word) for word in words if word in known)

    def path(self, name: str) -> str | None:
        text = self.text(name)
        return str(PurePosixPath(text)) if text is not None else None

    def origins(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        text = self.text(name)
        if text is None:
            return default
        found = tuple(word for word in (part.strip() for part in text.split(",")) if word)
        for origin in found:
            # Responses allow credentials, and browsers reject credentials together with a wildcard.
            if not re.fullmatch(r"https?://[^/*?#\s]+", origin):
                self.problems.append(f"SPOTPLANE_{name}: {origin!r} is not like https://x.example")
        return found
