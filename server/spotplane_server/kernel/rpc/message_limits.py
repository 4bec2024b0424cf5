"""Limits of requests: bytes on the wire, and bytes of memory once parsed, for each method.

A method that is not listed has `DEFAULT`. Memory is what `wire_scan` estimates: a list, a map or a
nested message of two bytes on the wire takes 40 to 300 bytes when it is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclass(frozen=True, slots=True)
class MessageLimit:
    """Limits of one request message; of each message, where a method takes a stream of them.

    Attributes:
        size: Bytes on the wire.
        memory: Bytes of the parsed message.
    """

    size: int = 64 * KIB
    memory: int = 4 * MIB


DEFAULT: Final = MessageLimit()
# JSON of up to 64 KiB as a `Struct`: a number takes 2 bytes in JSON and 11 on the wire.
_STRUCT: Final = MessageLimit(size=512 * KIB)
# Two JSON objects of up to 16 KiB.
_METADATA: Final = MessageLimit(size=256 * KIB)
# 1,000 usage records with metadata; 10 MiB is the largest REST body.
_RECORDS: Final = MessageLimit(10 * MIB, 32 * MIB)
# A chunk of a file, whose bytes are no elements; our own clients send 256 KiB.
_CHUNK: Final = MessageLimit(4 * MIB, 4 * MIB)

_METHODS: Final[dict[str, MessageLimit]] = {
    "TenantService/CreateTenant": _METADATA,
    "TenantService/UpdateTenant": _METADATA,
    "RegionService/CreateRegion": _METADATA,
    "RegionService/UpdateRegion": _METADATA,
    "InstanceTypeService/CreateInstanceType": _METADATA,
    "InstanceTypeService/UpdateInstanceType": _METADATA,
    "ModelService/CreateModel": _METADATA,
    "ModelService/UpdateModel": _METADATA,
    # A report of 1,000 usage records or prices of the usual length; the SDK's reports are smaller.
    "AgentService/Connect": MessageLimit(1 * MIB, 16 * MIB),
    # An inventory of 1,000 instances.
    "AgentService/Heartbeat": MessageLimit(size=1 * MIB),
    "AgentService/IssueCommand": _STRUCT,
    "AgentService/CompleteCommand": _STRUCT,
    # 256 pools with texts of up to 64 characters.
    "DecisionService/Decide": MessageLimit(size=256 * KIB),
    "DecisionService/UploadEngine": _CHUNK,
    "DecisionService/UploadModel": _CHUNK,
    # Up to 256 KiB of details, which the handler checks.
    "FleetService/ReportCleanup": MessageLimit(size=512 * KIB, memory=8 * MIB),
    "UsageService/IngestUsage": _RECORDS,
    "UsageService/IngestUsageBatch": _RECORDS,
    # 1,000 prices of each of two kinds.
    "MarketService/ReportPrices": MessageLimit(size=2 * MIB),
}

METHODS: Final = {f"/spotplane.v1.{name}": limit for name, limit in _METHODS.items()}


def of(method: str) -> MessageLimit:
    """The limit of a method, as in `/package.Service/Method`."""
    return METHODS.get(method, DEFAULT)
