"""Builds the interceptor and its dependencies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spotplane_server.kernel.auth.call_authenticator import CallAuthenticator
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.module import AppContext
from spotplane_server.kernel.ratelimit.enforcer import RateLimitEnforcer, ThresholdReached
from spotplane_server.kernel.ratelimit.limiter import LocalRateLimiter
from spotplane_server.kernel.request_context import Call
from spotplane_server.kernel.rpc.deserialization import READ_SECONDS
from spotplane_server.kernel.rpc.idempotency import IdempotencyStore
from spotplane_server.kernel.rpc.interceptor import ServerInterceptor
from spotplane_server.kernel.rpc.message_limits import MIB
from spotplane_server.kernel.rpc.stream_registry import StreamLimits

if TYPE_CHECKING:
    from spotplane_server.kernel.tracing import Traces


@dataclass(frozen=True, slots=True)
class Front:
    """The gate, and what has a life beside it."""

    gate: ServerInterceptor
    admission: RateLimitEnforcer
    repeats: IdempotencyStore


def build(
    kernel: AppContext,
    *,
    refused: Callable[[Call, DomainError], Awaitable[None]],
    tell: Callable[[Sequence[ThresholdReached]], Awaitable[None]],
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
    config, clock, own = kernel.config, kernel.clock, LocalRateLimiter()
    prover = CallAuthenticator(
        kernel.auth,
        kernel.tickets,
        own,
        clock,
        failures_per_minute=config.auth_failures_per_minute,
    )
    admission = RateLimitEnforcer(
        kernel.limits, own, clock, tenant_rpm=config.tenant_rpm, tell=tell
    )
    repeats = IdempotencyStore(kernel.db, clock)
    gate = ServerInterceptor(
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
