"""Who changed what: append-only rows in the transaction of the change."""

from spotplane_server.audit.store import Change, record

__all__ = ["Change", "record"]
