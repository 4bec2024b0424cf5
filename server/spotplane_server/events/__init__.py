"""What happened: a transactional outbox, read in commit order."""

from spotplane_server.events.store import Event, append

__all__ = ["Event", "append"]
