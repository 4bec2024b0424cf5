"""What all handlers of NodeService work with."""

from __future__ import annotations

from spotplane_server.config import ServerConfig
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Database
from spotplane_server.nodes.bells import Bells


class Handlers:
    """The common part of NodeService's handlers.

    Args:
        work: Rings, by provider, when there is an operation to do.
        lines: Rings, by node, when its log has another line or its state has moved.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tokens: PageTokens,
        config: ServerConfig,
        *,
        work: Bells,
        lines: Bells,
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._config = config
        self._work = work
        self._lines = lines
