"""What features are built from, and what they give to the process that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spotplane_server.config import ServerConfig
from spotplane_server.kernel.auth import Authenticator
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Database
from spotplane_server.kernel.jobs import Job
from spotplane_server.kernel.paging import PageTokens
from spotplane_server.kernel.wakeups import Wakeups


@dataclass(frozen=True, slots=True)
class Kernel:
    """What every feature is built from."""

    config: ServerConfig
    db: Database
    clock: Clock
    tokens: PageTokens
    auth: Authenticator
    wakeups: Wakeups
    server_id: str


@dataclass(frozen=True, slots=True)
class Parts:
    """A feature's services and how to add them to a server, its jobs, and what runs beside them."""

    services: Sequence[tuple[Any, Any]] = ()
    jobs: Sequence[Job] = ()
    background: Sequence[Any] = ()
    drain: Sequence[Any] = ()
