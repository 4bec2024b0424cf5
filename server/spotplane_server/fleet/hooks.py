"""What the fleet asks of the features beside it; the process that builds them connects them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from spotplane_server.agents import handlers
from spotplane_server.agents.merge import Inherit
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# An instance has become primary by a switch: its replica, if it was one, is promoted.
Serves: TypeAlias = Callable[[Conn, TenantId, UUID, str, datetime], Awaitable[None]]
# A launch is reported, by the placeholder or the replica that it was ordered for: the replica's
# state then, None when no replica was meant.
Launched: TypeAlias = Callable[
    [Conn, TenantId, UUID, str | None, UUID | None, str, datetime], Awaitable[str | None]
]


@dataclass(frozen=True, slots=True)
class Standby:
    """What replicas and failovers do about instances.

    Attributes:
        agents: What they do for agents as well.
        serves: Hears that a switch has led to an instance.
        launched: Hears that an instance was launched.
        inherit: Hands an older agent's replicas to the younger one.
    """

    agents: handlers.Standby
    serves: Serves
    launched: Launched
    inherit: Inherit
