"""Events: a transactional outbox, read in commit order."""

from spotplane_server.events.store import Event, append, append_many

__all__ = ["Event", "append", "append_many"]
