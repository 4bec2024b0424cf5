"""Client addresses: determines the origin of a call."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import unquote

from spotplane_server.kernel.errors import Forbidden

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class IpNotAllowed(Forbidden):
    """An administrator calls from an address that is on no allow-list."""

    reason = "IP_NOT_ALLOWED"

    def __init__(self) -> None:
        super().__init__("administrators may not call from this address")


def check_allowed(address: str | None, networks: Sequence[Network]) -> None:
    """Let an administrator's address pass; an empty list lets all pass.

    Raises:
        IpNotAllowed: It is in none of the networks, or unknown.
    """
    if networks and (address is None or not is_within(address, networks)):
        raise IpNotAllowed


def client_ip(address: str, forwarded_for: str | None, trusted: Sequence[Network]) -> str:
    """The right-most hop of `X-Forwarded-For` that is no trusted proxy.

    Args:
        address: Of the peer, a trusted proxy; the answer when no hop is left.
        forwarded_for: The header, hops left to right.
        trusted: Networks of our own proxies.
    """
    for hop in reversed([part.strip() for part in (forwarded_for or "").split(",")]):
        if _is_address(hop) and not is_within(hop, trusted):
            return hop
    return address


def peer_address(peer: str) -> str | None:
    """The address in a peer as gRPC formats it, e.g. ``ipv4:10.0.0.1:4711``.

    None for a peer without one (a Unix socket).
    """
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return None
    return unquote(rest.rpartition(":")[0]).strip("[]").partition("%")[0]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_within(text: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks."""
    address = ipaddress.ip_address(text)
    # An IPv4 caller of a socket that speaks both.
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks if network.version == address.version)
