"""An engine that runs elsewhere, behind `spotplane.engine.v1.DecisionEngineService`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, cast

import grpc
import grpc.aio
from spotplane.engine.v1 import engine_pb2 as pb
from spotplane.engine.v1 import engine_pb2_grpc

from spotplane_server.decisions.engine import (
    Action,
    Decision,
    Mode,
    PoolView,
    ReasonClass,
    Snapshot,
)
from spotplane_server.decisions.validation import EngineFault
from spotplane_server.kernel.api import wire

SECONDS: Final = 2.0
AT_ONCE: Final = 64
PLAIN: Final = "grpc://"
SECURE: Final = "grpcs://"
_NAME: Final = 64


class RemoteEngine:
    """Asks the service at an address, ``grpc://host:port`` or, with TLS, ``grpcs://host:port``."""

    hedges = False

    def __init__(self, address: str) -> None:
        self.name = "remote"
        self.version = "unknown"
        self._address = address
        self._channel: grpc.aio.Channel | None = None
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def load(self) -> None:
        """Ask who it is.

        Raises:
            EngineFault: It does not say.
        """
        request = pb.DescribeRequest()
        try:
            said = await self._stub().Describe(request, timeout=SECONDS)
        except grpc.aio.AioRpcError as err:
            raise EngineFault(f"does not answer: {err.code().name}") from err
        if not (1 <= len(said.name) <= _NAME and 1 <= len(said.version) <= _NAME):
            raise EngineFault("must say a name and a version of 1 to 64 characters")
        self.name, self.version = said.name, said.version

    async def ask(self, snapshot: Snapshot) -> Decision:
        """Its answer, as it came.

        Raises:
            EngineFault: It failed, was late, or left something out.
        """
        async with self._at_once:
            try:
                answer = await self._stub().Decide(to_request(snapshot), timeout=SECONDS)
            except grpc.aio.AioRpcError as err:
                raise EngineFault(f"failed: {err.code().name}") from err
        return from_response(answer)

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _stub(self) -> engine_pb2_grpc.DecisionEngineServiceStub:
        if self._channel is None:
            # Seven days of prices of many pools are a large message.
            options = [("grpc.max_send_message_length", 32 * 1024 * 1024)]
            if self._address.startswith(SECURE):
                self._channel = grpc.aio.secure_channel(
                    self._address.removeprefix(SECURE), grpc.ssl_channel_credentials(), options
                )
            else:
                self._channel = grpc.aio.insecure_channel(
                    self._address.removeprefix(PLAIN), options
                )
        return engine_pb2_grpc.DecisionEngineServiceStub(self._channel)


def to_request(snapshot: Snapshot) -> pb.DecideRequest:
    """A snapshot as a request."""
    limits = snapshot.limits
    return pb.DecideRequest(
        agent_id=str(snapshot.agent_id),
        instance_type=snapshot.instance_type,
        region=snapshot.region,
        mode=snapshot.mode,
        pool_id=snapshot.pool_id,
        serving_since=wire.timestamp(snapshot.serving_since),
        standby_pool_id=snapshot.standby_pool_id,
        on_demand_price=snapshot.on_demand_price,
        pools=_pools(snapshot.pools),
        limits=pb.Limits(
            min_savings_percent=limits.min_savings_percent,
            risk_threshold=limits.risk_threshold,
            max_switches_per_day=limits.max_switches_per_day,
            max_switches_per_week=limits.max_switches_per_week,
            min_pool_duration_hours=limits.min_pool_duration_hours,
        ),
        now=wire.timestamp(snapshot.now),
        memory=snapshot.memory,
    )


def _pools(pools: Sequence[PoolView]) -> list[pb.Pool]:
    return [
        pb.Pool(
            id=pool.id,
            az=pool.az,
            price=pool.price,
            risk=pool.risk,
            available=pool.available,
            interruptions=[found for at in pool.interruptions if (found := wire.timestamp(at))],
            history=[
                pb.PricePoint(time=wire.timestamp(at), price=price) for at, price in pool.history
            ],
        )
        for pool in pools
    ]


def from_response(answer: pb.DecideResponse) -> Decision:
    """An answer as a decision; what its values may be is checked like any engine's.

    Raises:
        EngineFault: Something required is missing.
    """
    for field in ("confidence", "risk_score", "expected_savings"):
        if not answer.HasField(field):
            raise EngineFault(f"answered without {field}")
    return Decision(
        action=cast(Action, answer.decision),
        target_mode=cast(Mode, answer.target_mode),
        target_pool_id=wire.optional(answer, "target_pool_id"),
        confidence=answer.confidence,
        risk_score=answer.risk_score,
        expected_savings=answer.expected_savings,
        reasoning=answer.reasoning,
        reason_class=cast(ReasonClass | None, wire.optional(answer, "reason_class")),
        scores=dict(answer.scores),
        memory=dict(answer.memory),
    )
