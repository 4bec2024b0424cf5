"""What callers of nodes may be refused for."""

from __future__ import annotations

from spotplane_server.kernel.errors import NotFound


class NodeNotFound(NotFound):
    """There is no such node, it is another tenant's, or it is dead."""

    reason = "NODE_NOT_FOUND"

    def __init__(self, message: str = "no such node", *, suggestion: str | None = None) -> None:
        super().__init__(message, suggestion=suggestion)
