"""Puts together what stands before every method."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spotplane_server.kernel.admission import Admission, Reached
from spotplane_server.kernel.calls import Call
from spotplane_server.kernel.credentials import Prover
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.idempotency import Repeats
from spotplane_server.kernel.limits import Limiter
from spotplane_server.kernel.message_limits import MIB
from spotplane_server.kernel.messages import READ_SECONDS
from spotplane_server.kernel.middleware import Gate
from spotplane_server.kernel.parts import Kernel
from spotplane_server.kernel.streams import StreamLimits

if TYPE_CHECKING:
    from spotplane_server.kernel.tracing import Traces


@dataclass(frozen=True, slots=True)
class Front:
    """The gate, and what has a life beside it."""

    gate: Gate
    admission: Admission
    repeats: Repeats


def build(
    kernel: Kernel,
    *,
    refused: Callable[[Call, DomainError], Awaitable[None]],
    tell: Callable[[Sequence[Reached]], Awaitable[None]],
    traces: Traces | None,
    read_seconds: float = READ_SECONDS,
) -> Front:
    """Build the gate.

    Args:
        kernel: What it is built from.
        refused: Told of callers that may not call, or that failed to prove themselves.
        tell: Told of budgets that fill up.
        traces: Collects spans.
        read_seconds: How long the request of a call that has one may take to arrive.
    """
    config, clock, own = kernel.config, kernel.clock, Limiter()
    prover = Prover(
        kernel.auth,
        kernel.tickets,
        own,
        clock,
        failures_per_minute=config.auth_failures_per_minute,
    )
    admission = Admission(kernel.limits, own, clock, tenant_rpm=config.tenant_rpm, tell=tell)
    repeats = Repeats(kernel.db, clock)
    gate = Gate(
        prover,
        admission,
        clock,
        refused=refused,
        repeats=repeats,
        proxies=kernel.proxies,
        largest_message=config.max_body_mib * MIB,
        subscriptions=StreamLimits(
            config.subscriptions_per_credential, config.subscriptions_per_tenant
        ),
        stall_seconds=config.stream_stall_seconds,
        read_seconds=read_seconds,
        traces=traces,
    )
    return Front(gate, admission, repeats)
