"""Largest request bodies, in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

KIB: Final = 1024

# Of a route that declares no other limit. Every message without a list or a free object is
# smaller, and so much is read before the credential is verified.
SMALL_BYTES: Final = 64 * KIB
# Routes that take an object of up to 64 KiB, as the server writes it. A client may indent and
# escape it, and sends other members with it.
OBJECT_BYTES: Final = 256 * KIB
# Routes that take up to 1,000 items of about 1 KiB.
LIST_BYTES: Final = 1024 * KIB
# Usage batches have 1,000 records, each with metadata; the contract's limit of 10 MiB holds.
BATCH_BYTES: Final = 10 * 1024 * KIB

# Of annotated routes, by service and method. Routes of `/api/**` declare theirs.
BODY_BYTES: Final[Mapping[str, int]] = {
    "AgentService/IssueCommand": OBJECT_BYTES,
    "UsageService/IngestUsageBatch": BATCH_BYTES,
}


def body_bytes(rpc: str) -> int:
    """Largest body of an RPC's routes.

    Args:
        rpc: As gRPC's `:path` has it.
    """
    return BODY_BYTES.get(rpc.rpartition(".")[2], SMALL_BYTES)
