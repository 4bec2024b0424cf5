"""What is attacked, and how hard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

# Source address of attacks over HTTP/1.1; the well-behaved client has another one.
ATTACKER: Final = "127.0.0.66"


@dataclass(frozen=True, slots=True)
class Target:
    """Addresses of a running stack, and what an authenticated attacker has.

    Attributes:
        server: The server's gRPC address.
        bridge: The bridge's HTTP address.
        edge: Envoy's public address.
        database_url: Where the bench stores the events that slow readers do not read.
        tenant_id: The attacker's tenant.
        key: An API key of it, with every right and generous limits.
        agent_id: An agent of that tenant.
        instance_id: The agent's primary instance.
    """

    server: str
    bridge: str
    edge: str
    database_url: str
    tenant_id: str
    key: str
    agent_id: str
    instance_id: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The key as call metadata."""
        return (("authorization", f"Bearer {self.key}"),)


@dataclass(frozen=True, slots=True)
class Size:
    """Bounds of one attack.

    Attributes:
        seconds: When it stops at the latest.
        count: Messages or requests of a flood.
        connections: Connections or streams that are held open.
        body_bytes: Size of a large body.
    """

    seconds: float
    count: int
    connections: int
    body_bytes: int


Outcome: TypeAlias = Counter[str]
Attack: TypeAlias = Callable[[Target, Size], Awaitable[Outcome]]
Metadata: TypeAlias = Sequence[tuple[str, str]]
