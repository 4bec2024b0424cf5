"""Trusted proxies: accepts forwarded metadata only from the bridge and Envoy.

A peer in a trusted network may name its client (`X-Forwarded-For`) and send internal metadata
(`x-spotplane-*`). From other peers both are ignored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from spotplane_server.kernel.auth import client_address
from spotplane_server.kernel.auth.client_address import Network

log = structlog.get_logger(__name__)

INTERNAL_PREFIX: Final = "x-spotplane-"
FORWARDED_FOR: Final = "x-forwarded-for"
# Addresses that are logged as possible proxies, each once.
MAX_REPORTED: Final = 100
# Peers and their headers that are kept, and the longest such header: at most 2 MiB.
MAX_KNOWN: Final = 4096
MAX_KNOWN_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call comes from.

    Attributes:
        peer: Address of the connection; None for a Unix socket.
        client_ip: Address of the caller.
        metadata: The call's metadata that is believed.
        untrusted_proxy: Whether the peer forwards calls without being trusted.
    """

    peer: str | None
    client_ip: str | None
    metadata: dict[str, str]
    untrusted_proxy: bool = False


class TrustedProxies:
    """The networks of our proxies; notices a proxy outside of them.

    An unconfigured proxy makes all its callers one address: they share one limit of authentication
    failures, and no allow-list works. Any caller can send `X-Forwarded-For`, so the header alone
    proves no proxy. It counts when the peer is on this host, or when the call was made by an
    administrator, who has no reason to harm the installation.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._reported: set[str] = set()
        # Parsing addresses takes 50 µs, and callers come back.
        self._known: dict[tuple[str, str | None], tuple[bool, str]] = {}
        self.unconfigured: str | None = None

    def origin(self, peer: str, metadata: Iterable[tuple[str, Any]]) -> Origin:
        """Read a call's peer and metadata.

        Args:
            peer: As gRPC formats it, e.g. ``ipv4:10.0.0.1:4711``.
            metadata: Of the call.
        """
        address, metadata = client_address.peer_address(peer), tuple(metadata)
        forwarded_for = next((v for k, v in metadata if k == FORWARDED_FOR), None)
        is_trusted, client_ip = False, address
        if address is not None:
            is_trusted, client_ip = self._read(address, forwarded_for)
        believed = {
            key: value
            for key, value in metadata
            if isinstance(value, str) and (is_trusted or not key.startswith(INTERNAL_PREFIX))
        }
        if address is None or is_trusted or forwarded_for is None:
            return Origin(address, client_ip, believed)
        found = Origin(address, address, believed, untrusted_proxy=True)
        if ipaddress.ip_address(address).is_loopback:
            self.note(found)
        return found

    def _read(self, address: str, forwarded_for: str | None) -> tuple[bool, str]:
        """Whether a peer is trusted, and the address of the caller."""
        known = self._known.get((address, forwarded_for))
        if known is not None:
            return known
        is_trusted = client_address.is_within(address, self._networks)
        client_ip = address
        if is_trusted and forwarded_for is not None:
            client_ip = client_address.client_ip(address, forwarded_for, self._networks)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        if len(forwarded_for or "") <= MAX_KNOWN_LENGTH:
            self._known[address, forwarded_for] = is_trusted, client_ip
        return is_trusted, client_ip

    def note(self, origin: Origin, *, proven: bool = True) -> None:
        """Record that a call came through a proxy that is not configured.

        Args:
            origin: Of the call.
            proven: Whether the caller is believed.
        """
        if not origin.untrusted_proxy or origin.peer is None:
            return
        if proven and self.unconfigured is None:
            self.unconfigured = origin.peer
            log.error(
                "proxy_not_trusted",
                peer=origin.peer,
                hint="name the networks of the bridge and of Envoy in SPOTPLANE_TRUSTED_PROXIES;"
                " until then this server is not ready",
            )
        elif origin.peer not in self._reported and len(self._reported) < MAX_REPORTED:
            self._reported.add(origin.peer)
            log.warning("forwarded_by_untrusted_peer", peer=origin.peer)
