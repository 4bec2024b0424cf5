"""Audit log: append-only rows, written in the transaction of the change."""

from spotplane_server.audit.store import Change, record
from spotplane_server.audit.system import (
    credential_configured,
    credential_put,
    credential_revoked,
    record_own,
)

__all__ = [
    "Change",
    "credential_configured",
    "credential_put",
    "credential_revoked",
    "record",
    "record_own",
]
