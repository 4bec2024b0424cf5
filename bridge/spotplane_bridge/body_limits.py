"""Largest request bodies, in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

KIB: Final = 1024

# The limit of a route that declares none. Every message without a list or a free object is
# smaller. This many bytes are read before the credential is verified.
SMALL_BYTES: Final = 64 * KIB
# Routes that take an object of up to 64 KiB as the server serializes it. A client may indent and
# escape it, and sends other members with it.
OBJECT_BYTES: Final = 256 * KIB
# Routes that take up to 1,000 items of about 1 KiB.
LIST_BYTES: Final = 1024 * KIB
# Usage batches have 1,000 records, each with metadata; the contract's limit of 10 MiB holds.
BATCH_BYTES: Final = 10 * 1024 * KIB

# Limits of annotated routes, by service and method. Routes of `/api/**` declare their own.
BODY_BYTES: Final[Mapping[str, int]] = {
    "AgentService/IssueCommand": OBJECT_BYTES,
    "UsageService/IngestUsageBatch": BATCH_BYTES,
}


def body_bytes(rpc: str) -> int:
    """Return the largest request body of an RPC's routes, in bytes.

    Args:
        rpc: The RPC in the form of gRPC's `:path`.
    """
    return BODY_BYTES.get(rpc.rpartition(".")[2], SMALL_BYTES)
