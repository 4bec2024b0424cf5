"""BudgetService: create, read, update and delete spend budgets."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from spotplane.v1 import budget_pb2 as pb
from spotplane.v1 import budget_pb2_grpc

from spotplane_server import audit
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.spending import enforcement, requests, rules, store
from spotplane_server.spending.errors import BudgetNotFound, TooManyBudgets
from spotplane_server.spending.rules import BudgetStatus
from spotplane_server.spending.store import BudgetRef, Draft
from spotplane_server.tenants import keys_store
from spotplane_server.tenants import rules as tenant_rules
from spotplane_server.tenants import store as tenants_store
from spotplane_server.tenants.errors import ApiKeyNotFound, TenantNotFound

_NANOS: Final = 10**9


class BudgetService(budget_pb2_grpc.BudgetServiceServicer):
    """Handlers; the proto comments are their contract."""

    def __init__(self, db: Database, clock: Clock, tokens: PageTokens) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens

    async def CreateBudget(self, request: pb.CreateBudgetRequest, context: Context) -> pb.Budget:
        draft, now = requests.new(request), self._clock.now()
        async with self._db.transaction(TenantId(draft.tenant_id)) as conn:
            await _check_room(conn, draft)
            await store.insert(conn, draft, now)
            change = _change("create", draft, after=_audit_fields(draft))
            budget = await self._apply(conn, draft, change, now)
        request_context.created()
        return _message(budget, now)

    async def ListBudgets(
        self, request: pb.ListBudgetsRequest, context: Context
    ) -> pb.ListBudgetsResponse:
        tenant_id = requests.tenant_id(request)
        return pb.ListBudgetsResponse(**await self._page(request, tenant_id))

    async def ListOwnBudgets(
        self, request: pb.ListOwnBudgetsRequest, context: Context
    ) -> pb.ListOwnBudgetsResponse:
        return pb.ListOwnBudgetsResponse(**await self._page(request, request_context.own_tenant()))

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Context) -> pb.Budget:
        named, now = requests.named(request), self._clock.now()
        async with self._db.connection(TenantId(named.tenant_id)) as conn:
            found = await store.load_statuses(conn, [named], now)
        if not found:
            raise BudgetNotFound(named.id)
        return _message(found[0], now)

    async def UpdateBudget(self, request: pb.UpdateBudgetRequest, context: Context) -> pb.Budget:
        named, now = requests.named(request), self._clock.now()
        async with self._db.transaction(TenantId(named.tenant_id)) as conn:
            present = await _locked(conn, named, now)
            draft = requests.changed(request, present)
            await store.update(conn, draft, now)
            before, after = _audit_fields(_draft(present)), _audit_fields(draft)
            fields = [name for name in after if after[name] != before[name]]
            change = _change(
                "update",
                draft,
                before={name: before[name] for name in fields},
                after={name: after[name] for name in fields},
            )
            budget = await self._apply(conn, draft, change, now)
        return _message(budget, now)

    async def DeleteBudget(
        self, request: pb.DeleteBudgetRequest, context: Context
    ) -> pb.DeleteBudgetResponse:
        named, now = requests.named(request), self._clock.now()
        async with self._db.transaction(TenantId(named.tenant_id)) as conn:
            present = await _locked(conn, named, now)
            await enforcement.release_stop(conn, present, now)
            await store.delete(conn, named)
            settings = _draft(present)
            change = _change("delete", settings, before=_audit_fields(settings))
            await audit.record(conn, request_context.current(), change, now)
        return pb.DeleteBudgetResponse(status="deleted", message="budget deleted")

    async def _apply(
        self, conn: Conn, draft: Draft, change: audit.Change, now: datetime
    ) -> BudgetStatus:
        """Apply new settings immediately; return the resulting status."""
        await audit.record(conn, request_context.current(), change, now)
        named = BudgetRef(draft.tenant_id, draft.id)
        budget = await _locked(conn, named, now)
        await store.delete_crossings(conn, budget, rules.reached_thresholds(budget))
        await enforcement.apply_plan(conn, budget, now)
        return await _locked(conn, named, now)

    async def _page(self, request: Any, tenant_id: TenantId) -> dict[str, Any]:
        now = self._clock.now()
        key_id = wire.optional_uuid(request, "api_key_id", "API key ID")
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={"tenant_id": tenant_id, "api_key_id": key_id},
        )
        async with self._db.connection(tenant_id) as conn:
            await tenants_store.get_tenant(conn, tenant_id)
            found = await store.list_page(conn, tenant_id, key_id, page)
            statuses = {row.id: row for row in await store.load_statuses(conn, found.items, now)}
        # A budget that was deleted in between is omitted.
        items = [statuses[named.id] for named in found.items if named.id in statuses]
        data, pagination = paging.answer(
            page, paging.Slice(items, found.total), self._tokens, lambda b: (b.created_at, b.id)
        )
        return {"data": [_message(item, now) for item in data], "pagination": pagination}


async def _check_room(conn: Conn, draft: Draft) -> None:
    """Check the quota; lock the tenant and the budget's key until the budget is created."""
    tenant = await tenants_store.lock_tenant(conn, draft.tenant_id)
    if tenant is None:
        raise TenantNotFound(draft.tenant_id)
    tenant_rules.check_not_deleted(tenant.status)
    # Without the lock, a concurrent rotation could create a key that no budget covers.
    key_id = draft.api_key_id
    if key_id and await keys_store.lock_key(conn, key_id, draft.tenant_id) is None:
        raise ApiKeyNotFound(key_id)
    if await store.count(conn, draft.tenant_id) >= rules.MAX_BUDGETS:
        raise TooManyBudgets(rules.MAX_BUDGETS)


async def _locked(conn: Conn, named: BudgetRef, now: datetime) -> BudgetStatus:
    budget = await store.lock(conn, named, now)
    if budget is None:
        raise BudgetNotFound(named.id)
    return budget


def _draft(budget: BudgetStatus) -> Draft:
    return Draft(
        budget.tenant_id,
        budget.id,
        budget.api_key_id,
        budget.period,
        budget.name,
        budget.limit_nanos,
        budget.alert_thresholds_pct,
        budget.hard_stop,
    )


def _audit_fields(draft: Draft) -> dict[str, Any]:
    return {
        "name": draft.name,
        "api_key_id": draft.api_key_id,
        "period": draft.period,
        "limit_nanos": draft.limit_nanos,
        "alert_thresholds_pct": draft.alert_thresholds_pct,
        "hard_stop": draft.hard_stop,
    }


def _change(
    verb: str,
    draft: Draft,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> audit.Change:
    return audit.Change(
        f"budget.{verb}", "budget", str(draft.id), draft.tenant_id, before=before, after=after
    )


def _message(budget: BudgetStatus, now: datetime) -> pb.Budget:
    projected = rules.projected_nanos(budget, now)
    return pb.Budget(
        id=str(budget.id),
        tenant_id=str(budget.tenant_id),
        api_key_id=_text(budget.api_key_id),
        name=budget.name,
        period=budget.period,
        limit_usd=budget.limit_nanos / _NANOS,
        limit_nanos=budget.limit_nanos,
        alert_thresholds_pct=budget.alert_thresholds_pct,
        hard_stop=budget.hard_stop,
        spent_usd=budget.spent_nanos / _NANOS,
        spent_nanos=budget.spent_nanos,
        spent_pct=budget.spent_pct,
        period_start=None if budget.endless else wire.timestamp(budget.period_start),
        period_end=None if budget.endless else wire.timestamp(budget.period_end),
        state=budget.state,
        projected_usd=None if projected is None else projected / _NANOS,
        projected_nanos=projected,
        created_at=wire.timestamp(budget.created_at),
        updated_at=wire.timestamp(budget.updated_at),
    )


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
