"""Network addresses in settings: one ``host:port``, or several separated by commas."""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """An address to listen on or to connect to; port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``, ``[v6]:port`` or ``:port`` (all interfaces).

        Raises:
            ValueError: ``text`` is none of these, or the port is not in 0..65535.
        """
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is not host:port")
        if any(c.isspace() or c in ",/" for c in host) or (":" in host and not bracketed):
            raise ValueError(f"{text!r} is not host:port; an IPv6 host is written [host]")
        return cls(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_upstreams(text: str) -> tuple[Address, ...]:
    """Parse ``host:port`` or several, separated by commas, as upstream addresses.

    Raises:
        ValueError: An item is not an address with a port, or occurs twice.
    """
    found: list[Address] = []
    for part in (part.strip() for part in text.split(",")):
        address = Address.parse(part)
        if part.startswith(":") or address.port == 0:
            raise ValueError(f"{part!r} is not host:port with a port from 1 to 65535")
        if address in found:
            raise ValueError(f"{part!r} is named twice")
        found.append(address)
    return tuple(found)
