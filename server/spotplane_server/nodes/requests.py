"""Reading requests about nodes; every refusal names its field."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, cast
from urllib.parse import urlsplit
from uuid import UUID

from google.protobuf.message import Message
from spotplane.v1 import node_pb2 as pb

from spotplane_server.kernel import wire
from spotplane_server.kernel.errors import Invalid, Semantic
from spotplane_server.nodes import rules
from spotplane_server.nodes.rules import Status

MAX_CLOCK_LEAD: Final = timedelta(minutes=5)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_GB: Final = 10**8 - 1
_MAX_USD: Final = 10**6 - 1


@dataclass(frozen=True, slots=True)
class Registration:
    """What a node says of itself; names of the catalogue are not looked up yet."""

    provider: str
    endpoint_url: str
    cluster_name: str | None
    region: str | None
    model_name: str | None
    instance_type: str | None
    gpu_type: str | None
    vram_total_gb: Decimal | None
    internal_ip: str | None
    spot_instance: bool | None
    spot_price: Decimal | None
    status: Status


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat."""

    score: Decimal
    sent_at: datetime | None


def node_id(text: str) -> UUID:
    """Read a node's id."""
    return wire.uuid(text, "id", "node ID")


def cluster_name(text: str, field: str = "cluster_name") -> str:
    """Read a node's name.

    Raises:
        Invalid: It cannot be one.
    """
    if not text:
        raise wire.missing(field)
    if not _NAME.fullmatch(text):
        raise Invalid(
            f"{field} must be 1 to 128 characters of [A-Za-z0-9._-], the first a letter or digit",
            reason="INVALID_ID",
            field=field,
        )
    return text


def statuses(request: pb.ListNodesRequest) -> tuple[str, ...]:
    """Read which states are wanted.

    Raises:
        Invalid: One of them is none.
    """
    if not request.HasField("status"):
        return rules.LISTED
    wanted = (part.strip() for part in request.status.split(","))
    return tuple(wire.one_of(part, "status", rules.STATUSES) for part in wanted)


def registration(request: pb.RegisterNodeRequest) -> Registration:
    """Read a registration.

    Raises:
        Invalid: A member is.
    """
    name = wire.optional(request, "cluster_name")
    status = wire.optional_one_of(request, "status", rules.REGISTERED)
    return Registration(
        provider=wire.one_of(request.provider, "provider", rules.PROVIDERS),
        endpoint_url=_url(request.endpoint_url),
        cluster_name=None if name is None else cluster_name(name),
        region=_name_of(request, "region"),
        model_name=_name_of(request, "model_name"),
        instance_type=_name_of(request, "instance_type"),
        gpu_type=wire.optional_text(request, "gpu_type", maximum=100),
        vram_total_gb=_decimal(request, "vram_total_gb", digits=2, maximum=_MAX_GB),
        internal_ip=_address(request),
        spot_instance=wire.optional(request, "spot_instance"),
        spot_price=_decimal(request, "spot_price", digits=6, maximum=_MAX_USD),
        status=cast("Status", status or "active"),
    )


def beat(request: pb.NodeHeartbeatRequest, now: datetime) -> Beat:
    """Read a heartbeat.

    Raises:
        Invalid: A member is. Semantic: It was sent in the future.
    """
    if not request.HasField("health_score"):
        raise wire.missing("health_score")
    sent_at = wire.optional_instant(request, "timestamp")
    if sent_at is not None and sent_at > now + MAX_CLOCK_LEAD:
        raise Semantic("timestamp is more than 5 minutes ahead", field="timestamp")
    score = wire.decimal(request.health_score, "health_score", digits=2, maximum=100)
    return Beat(score, sent_at)


def _name_of(request: Message, field: str) -> str | None:
    if not request.HasField(field):
        return None
    return wire.text(getattr(request, field), field, maximum=255, required=True)


def _decimal(request: Message, field: str, *, digits: int, maximum: int) -> Decimal | None:
    if not request.HasField(field):
        return None
    return wire.decimal(getattr(request, field), field, digits=digits, maximum=maximum)


def _address(request: pb.RegisterNodeRequest) -> str | None:
    if not request.HasField("internal_ip"):
        return None
    try:
        return str(ipaddress.ip_address(request.internal_ip))
    except ValueError as err:
        raise Invalid("internal_ip must be an IP address", field="internal_ip") from err


def _url(text: str) -> str:
    value = wire.text(text, "endpoint_url", maximum=2048, required=True)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or half an IPv6 address
        usable = False
    if not usable or re.search(r"\s", value):
        raise Invalid("endpoint_url must be an http or https URL", field="endpoint_url")
    return value
