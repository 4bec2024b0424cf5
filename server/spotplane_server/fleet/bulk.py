"""One thing done to many agents or instances, each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from spotplane.v1 import fleet_pb2 as pb

from spotplane_server import audit
from spotplane_server.agents import access, config, lifecycle
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.errors import AgentNotFound, InstanceNotFound
from spotplane_server.fleet import bulk_queries, errors
from spotplane_server.fleet.hooks import Standby
from spotplane_server.instances import store as instances
from spotplane_server.instances import termination_store
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import (
    ALL_TENANTS,
    Conn,
    Database,
    retry_on_serialization_failure,
)
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.request_context import Call

Operation: TypeAlias = Literal[
    "delete_agents", "enable_agents", "disable_agents", "terminate_instances"
]
Status: TypeAlias = Literal["success", "failed", "skipped"]

OPERATIONS: Final = ("delete_agents", "enable_agents", "disable_agents", "terminate_instances")
MAX_ITEMS: Final = 500


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done to what."""

    operation: str
    items: Sequence[str]
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item; ``signal`` names an agent whose sessions must look again."""

    status: Status
    agent_id: str
    instance_id: str | None = None
    error: str | None = None
    signal: UUID | None = None


def read(request: pb.BulkExecuteRequest) -> Order:
    """What is asked for.

    Raises:
        ConfirmRequired: It does not say that it means it. Invalid: Nothing or too much is named.
    """
    operation = wire.one_of(request.operation, "operation", OPERATIONS)
    field = "instance_ids" if operation == "terminate_instances" else "agent_ids"
    items = list(dict.fromkeys(getattr(request, field)))
    if not 1 <= len(items) <= MAX_ITEMS:
        raise wire.out_of_range(field, f"1 to {MAX_ITEMS} items")
    if not request.confirm:
        raise errors.ConfirmRequired("say confirm: true to mean it")
    return Order(operation, items, request.dry_run)


def answer(order: Order, outcomes: Sequence[Outcome]) -> pb.BulkExecuteResponse:
    """What became of everything."""
    return pb.BulkExecuteResponse(
        operation=order.operation,
        total=len(outcomes),
        succeeded=sum(outcome.status == "success" for outcome in outcomes),
        failed=sum(outcome.status == "failed" for outcome in outcomes),
        dry_run=order.dry_run,
        results=[
            pb.BulkResult(
                agent_id=outcome.agent_id,
                instance_id=outcome.instance_id,
                status=outcome.status,
                error=outcome.error,
            )
            for outcome in outcomes
        ],
    )


class _DryRunError(Exception):
    """Ends a transaction whose outcome is known and shall not come to pass."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class Bulk:
    """Does one thing to one item at a time."""

    def __init__(self, db: Database, ledger: Ledger, standby: Standby) -> None:
        self._db = db
        self._ledger = ledger
        self._standby = standby

    async def run(self, order: Order, item: str, call: Call, now: datetime) -> Outcome:
        """Do it to one item; a dry run does all of it and takes it back."""

        async def once() -> Outcome:
            async with self._db.transaction(ALL_TENANTS) as conn:
                outcome = await self._do(conn, order.operation, item, call, now)
                if order.dry_run:
                    raise _DryRunError(outcome)
                return outcome

        try:
            return await retry_on_serialization_failure(once)
        except _DryRunError as dry:
            return replace(dry.outcome, signal=None)
        except DomainError as err:
            named = item if order.operation == "terminate_instances" else None
            return Outcome("failed", "" if named else item, named, err.message)

    async def _do(
        self, conn: Conn, operation: str, item: str, call: Call, now: datetime
    ) -> Outcome:
        if operation == "terminate_instances":
            return await _consent(conn, item, call, now)
        agent_id = _agent_id(item)
        if operation == "delete_agents":
            return await self._delete(conn, agent_id, call, now)
        return await self._enable(conn, agent_id, operation == "enable_agents", call, now)

    async def _delete(self, conn: Conn, agent_id: UUID, call: Call, now: datetime) -> Outcome:
        agent = await access.lock(conn, agent_id)
        if await instances.find_primary(conn, agent.tenant_id, agent_id) is not None:
            return Outcome(
                "failed", str(agent_id), error="an instance of the agent serves; end it first"
            )
        await lifecycle.delete(conn, agent, self._standby.agents, reason="deleted", now=now)
        change = audit.Change("agent.delete", "agent", str(agent_id), agent.tenant_id)
        await audit.record(conn, call, change, now)
        return Outcome("success", str(agent_id), signal=agent_id)

    async def _enable(
        self, conn: Conn, agent_id: UUID, enabled: bool, call: Call, now: datetime
    ) -> Outcome:
        agent = await access.lock(conn, agent_id)
        if agent.config.enabled == enabled:
            return Outcome("skipped", str(agent_id))
        await config.change(conn, call, agent_id, {"enabled": enabled}, self._ledger, now)
        return Outcome("success", str(agent_id), signal=agent_id)


async def _consent(conn: Conn, instance_id: str, call: Call, now: datetime) -> Outcome:
    """Agree to the end of what serves nobody: its agent is told so when it asks next."""
    found = await bulk_queries.lock_doomed(conn, instance_id)
    if found is None:
        raise InstanceNotFound
    agent_id = str(found.agent_id)
    if found.endable and found.terminate_consent and found.status in ("zombie", "terminating"):
        return Outcome("skipped", agent_id, instance_id)
    if not found.endable or not await termination_store.consent(
        conn, found.tenant_id, found.id, now
    ):
        why = f"the instance is {found.status}; only zombies and given-up replicas are ended"
        if found.orphaned:
            why = "its agent was deleted, so nobody is left who could end it"
        return Outcome("failed", agent_id, instance_id, why)
    change = audit.Change(
        "instance.terminate",
        "instance",
        found.id,
        found.tenant_id,
        before={"status": found.status},
        after={"terminate_consent": True},
    )
    await audit.record(conn, call, change, now)
    return Outcome("success", agent_id, instance_id, signal=found.agent_id)


def _agent_id(text: str) -> UUID:
    # Malformed, unknown and deleted ids are the same to whoever named them.
    try:
        return UUID(text)
    except ValueError as err:
        raise AgentNotFound from err
