"""Reading requests about nodes; every refusal names its field."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, cast
from urllib.parse import urlsplit
from uuid import UUID

from google.protobuf.message import Message
from spotplane.v1 import node_pb2 as pb

from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Invalid, Semantic
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.nodes import logs_store, rules
from spotplane_server.nodes.launching import Order
from spotplane_server.nodes.operations import Report
from spotplane_server.nodes.rules import Status

MAX_CLOCK_LEAD: Final = timedelta(minutes=5)
OUTCOMES: Final = ("working", "done", "failed", "dropped")
MAX_DEADLINE: Final = timedelta(hours=24)
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


def order(request: pb.LaunchNodeRequest, tenant_id: TenantId | None) -> Order:
    """Read an order of a node.

    Raises:
        Invalid: A member is, or neither type nor GPU is named.
    """
    found = _order(request, request.model, "model", tenant_id)
    if found.gpu is None and found.instance_type is None:
        raise Invalid(
            "gpu or instance_type is required", reason="MISSING_FIELD", field="instance_type"
        )
    return found


def instance_order(request: pb.LaunchInstanceRequest, tenant_id: TenantId | None) -> Order:
    """Read an order of a node by what it is to serve.

    Raises:
        Invalid: A member is.
    """
    count = wire.optional_integer(request, "gpu_count", 1, 64)
    return replace(_order(request, request.model_name, "model_name", tenant_id), gpu_count=count)


def _order(
    request: pb.LaunchNodeRequest | pb.LaunchInstanceRequest,
    model: str,
    model_field: str,
    tenant_id: TenantId | None,
) -> Order:
    return Order(
        provider=wire.one_of(request.provider, "provider", rules.LAUNCHABLE),
        region=wire.text(request.region, "region", maximum=50, required=True),
        model=wire.text(model, model_field, maximum=255, required=True),
        model_field=model_field,
        instance_type=_name_of(request, "instance_type"),
        gpu=_name_of(request, "gpu"),
        gpu_count=None,
        spot=request.use_spot,
        tenant_id=tenant_id,
    )


def reason(request: Message) -> str | None:
    """Read a reason for people."""
    return wire.optional_text(request, "reason", maximum=500)


def deadline(request: pb.NodeReportTerminationRequest, provider: str, now: datetime) -> datetime:
    """Read when a node's cloud takes it back; by its custom when that was not said.

    Raises:
        Invalid: It is no instant. Semantic: It is too far ahead to be an announcement.
    """
    at = wire.optional_instant(request, "deadline")
    if at is None:
        return now + rules.notice(provider)
    if at > now + MAX_DEADLINE:
        raise Semantic("deadline is more than 24 hours ahead", field="deadline")
    return at


def report(request: pb.ReportNodeOperationRequest) -> Report:
    """Read what the holder of an operation says.

    Raises:
        Invalid: A member is.
    """
    return Report(
        operation_id=wire.uuid(request.operation_id, "operation_id", "operation ID"),
        attempt=wire.integer(request.attempt, "attempt", 1, 2**31 - 1),
        outcome=wire.one_of(request.outcome, "outcome", OUTCOMES),
        retryable=request.retryable,
        phase=wire.optional_one_of(request, "phase", rules.REPORTED_PHASES) or "provisioning",
        message=wire.optional_text(request, "message", maximum=1000) or None,
        machine_id=wire.optional_text(request, "machine_id", maximum=200) or None,
    )


def log_window(
    request: pb.ListNodeLogsRequest | pb.StreamNodeLogsRequest, now: datetime
) -> tuple[int, datetime]:
    """Read how many lines are wanted at most, and from when on.

    Raises:
        Invalid: One of them is not in its range.
    """
    tail = wire.optional_integer(request, "tail", 1, 1000) or 100
    kept = now - logs_store.KEPT_FOR
    since = wire.optional_instant(request, "since")
    return tail, kept if since is None else max(since, kept)
