"""TenantService: create, read, update, suspend, delete and export tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid4

from google.api import httpbody_pb2
from spotplane.v1 import tenant_pb2 as pb

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.auth.authenticator import bump_epoch
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.errors import Conflict
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.tenants import (
    clients,
    events,
    keys_store,
    rules,
    store,
    suspension,
    tenant_setup,
)
from spotplane_server.tenants.clients_service import ClientSettings, ClientsService
from spotplane_server.tenants.environments_service import EnvironmentsService
from spotplane_server.tenants.errors import TenantNotFound
from spotplane_server.tenants.export import Exporter
from spotplane_server.tenants.store import MAX_NAME, Tenant, TenantDraft, Totals

MAX_REASON: Final = 500
MAX_NOTES: Final = 2000
# A tenant can be deleted between the search and the insert; the number of retries is limited.
MAX_RESOLVE_ATTEMPTS: Final = 5

_COLUMNS: Final = {"tier": "billing_plan"}


class TenantService(ClientsService, EnvironmentsService):
    """Handlers for administrators; the proto comments are their contract.

    Args:
        db: The database.
        clock: Source of the current time.
        tokens: Encrypts page tokens.
        exporter: Builds archives.
        settings: Defaults of new clients.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tokens: PageTokens,
        exporter: Exporter,
        *,
        settings: ClientSettings,
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._exporter = exporter
        self._clients = settings

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Context) -> pb.Tenant:
        draft = TenantDraft(
            uuid4(),
            wire.text(request.name, "name", maximum=MAX_NAME, required=True),
            wire.email(request.email),
            wire.optional_one_of(request, "tier", rules.TIERS) or rules.DEFAULT_TIER,
            wire.json_object(request, "metadata") or {},
            wire.json_object(request, "region_preferences") or {},
        )
        async with self._db.transaction(TenantId(draft.id)) as conn:
            tenant = await store.insert_tenant(conn, draft, now=self._clock.now())
            await tenant_setup.create_default_environment(conn, tenant, self._clients.region_code)
        request_context.created()
        return _message(tenant, Totals())

    async def ResolveTenant(
        self, request: pb.ResolveTenantRequest, context: Context
    ) -> pb.ResolveTenantResponse:
        email = wire.email(request.email)
        name = wire.optional_text(request, "name", maximum=MAX_NAME)
        draft = TenantDraft(
            uuid4(), name or rules.name_from_email(email), email, rules.DEFAULT_TIER, {}, {}
        )
        async with self._db.transaction(ALL_TENANTS) as conn:
            for _ in range(MAX_RESOLVE_ATTEMPTS):
                if (found := await store.find_by_email(conn, email)) is not None:
                    return pb.ResolveTenantResponse(id=str(found[0]), status=found[1])
                tenant = await store.try_insert_tenant(conn, draft, now=self._clock.now())
                if tenant is not None:
                    await tenant_setup.create_default_environment(
                        conn, tenant, self._clients.region_code
                    )
                    break
            else:
                raise Conflict("the tenant of this e-mail changes too often; retry")
        request_context.created()
        return pb.ResolveTenantResponse(id=str(tenant.id), status=tenant.status, new=True)

    async def ListTenants(
        self, request: pb.ListTenantsRequest, context: Context
    ) -> pb.ListTenantsResponse:
        status = wire.optional_one_of(request, "status", rules.TENANT_STATUSES)
        search = wire.optional_text(request, "search", maximum=320) or None
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={"status": status, "search": search},
        )
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await store.list_tenants(conn, page, status=status, search=search)
            totals = await store.sum_totals(conn, [tenant.id for tenant in found.items])
        items, pagination = paging.answer(
            page, found, self._tokens, lambda tenant: (tenant.created_at, tenant.id)
        )
        return pb.ListTenantsResponse(
            data=[_message(tenant, totals[tenant.id]) for tenant in items], pagination=pagination
        )

    async def GetTenant(self, request: pb.GetTenantRequest, context: Context) -> pb.Tenant:
        tenant_id = _id(request)
        async with self._db.connection(tenant_id) as conn:
            return await _with_totals(conn, await store.get_tenant(conn, tenant_id))

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: Context) -> pb.Tenant:
        tenant_id, now = _id(request), self._clock.now()
        changed = _changes(request)
        async with self._db.transaction(tenant_id) as conn:
            before = await _locked(conn, tenant_id)
            rules.check_not_deleted(before.status)
            after = await store.update_tenant(conn, replace(before, **changed), now=now)
            await events.record_tenant_change(
                conn,
                tenant_id,
                ("update", "updated"),
                before={name: getattr(before, name) for name in changed},
                after={name: getattr(after, name) for name in changed},
                data={"changed": sorted(changed)},
                now=now,
            )
            return await _with_totals(conn, after)

    async def DeleteTenant(
        self, request: pb.DeleteTenantRequest, context: Context
    ) -> pb.DeleteTenantResponse:
        tenant_id, now = _id(request), self._clock.now()
        async with self._db.transaction(tenant_id) as conn:
            tenant = await _locked(conn, tenant_id)
            rules.check_not_deleted(tenant.status)
            await store.mark_deleted(conn, tenant_id, now=now)
            keys = await keys_store.revoke_keys(conn, tenant_id, now=now)
            await clients.append_event(
                conn, tenant_id, "client.deleted", {"name": tenant.name}, now=now
            )
            await events.record_tenant_change(
                conn,
                tenant_id,
                ("delete", "deleted"),
                before={"status": tenant.status},
                after={"status": "deleted", "deleted_at": now, "revoked_keys": keys},
                data={"previous_status": tenant.status, "deleted_at": now},
                now=now,
            )
            await bump_epoch(conn)
        return pb.DeleteTenantResponse(
            status="deleted", message=f"tenant deleted, {keys} API keys revoked"
        )

    async def SuspendTenant(
        self, request: pb.SuspendTenantRequest, context: Context
    ) -> pb.SuspendTenantResponse:
        tenant_id = _id(request)
        reason = wire.optional_text(request, "reason", maximum=MAX_REASON)
        notes = wire.optional_text(request, "notes", maximum=MAX_NOTES)
        async with self._db.transaction(tenant_id) as conn:
            tenant = await _locked(conn, tenant_id)
            tenant = await suspension.suspend(
                conn, tenant, reason=reason, notes=notes, now=self._clock.now()
            )
            message = await _with_totals(conn, tenant)
        return pb.SuspendTenantResponse(
            status="suspended", message="tenant suspended", reason=reason, tenant=message
        )

    async def ActivateTenant(
        self, request: pb.ActivateTenantRequest, context: Context
    ) -> pb.ActivateTenantResponse:
        tenant_id = _id(request)
        notes = wire.optional_text(request, "notes", maximum=MAX_NOTES)
        async with self._db.transaction(tenant_id) as conn:
            before = await _locked(conn, tenant_id)
            tenant = await suspension.activate(conn, before, notes=notes, now=self._clock.now())
            message = await _with_totals(conn, tenant)
        return pb.ActivateTenantResponse(
            status="active",
            message="tenant activated",
            reason=before.suspension_reason,
            tenant=message,
        )

    async def ExportTenant(
        self, request: pb.ExportTenantRequest, context: Context
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        tenant_id = _id(request)
        form = wire.optional_one_of(request, "format", ("ndjson", "csv")) or "ndjson"
        request_context.answer_headers(
            {"content-disposition": f'attachment; filename="tenant-{tenant_id}.zip"'}
        )
        # Closed with this generator, so that a disconnect frees the connection immediately.
        async with aclosing(self._exporter.archive(tenant_id, form, self._clock.now())) as chunks:
            async for chunk in chunks:
                yield httpbody_pb2.HttpBody(content_type="application/zip", data=chunk)


def _id(request: Any) -> TenantId:
    return TenantId(wire.uuid(request.id, "id", "tenant ID"))


def _changes(request: pb.UpdateTenantRequest) -> dict[str, Any]:
    found: dict[str, Any] = wire.changes(
        request,
        {
            "name": lambda: wire.text(request.name, "name", maximum=MAX_NAME, required=True),
            "email": lambda: wire.email(request.email),
            "tier": lambda: wire.one_of(request.tier, "tier", rules.TIERS),
            "metadata": lambda: wire.json_object(request, "metadata"),
            "region_preferences": lambda: wire.json_object(request, "region_preferences"),
        },
    )
    return {_COLUMNS.get(name, name): value for name, value in found.items()}


async def _locked(conn: Conn, tenant_id: UUID) -> Tenant:
    tenant = await store.lock_tenant(conn, tenant_id)
    if tenant is None:
        raise TenantNotFound(tenant_id)
    return tenant


async def _with_totals(conn: Conn, tenant: Tenant) -> pb.Tenant:
    totals = await store.sum_totals(conn, [tenant.id])
    return _message(tenant, totals[tenant.id])


def _message(tenant: Tenant, totals: Totals) -> pb.Tenant:
    return pb.Tenant(
        id=str(tenant.id),
        name=tenant.name,
        email=tenant.email,
        status=tenant.status,
        tier=tenant.billing_plan,
        metadata=wire.struct(tenant.metadata),
        region_preferences=wire.struct(tenant.region_preferences),
        suspended_at=wire.timestamp(tenant.suspended_at),
        suspension_reason=tenant.suspension_reason,
        suspension_notes=tenant.suspension_notes,
        deleted_at=wire.timestamp(tenant.deleted_at),
        total_spend_usd=totals.spend_nanos / 1e9,
        total_spend_nanos=totals.spend_nanos,
        api_keys_count=totals.keys,
        created_at=wire.timestamp(tenant.created_at),
        updated_at=wire.timestamp(tenant.updated_at),
    )
