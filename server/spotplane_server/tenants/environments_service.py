"""TenantService, environments: list, read, and update rate limits and quotas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from spotplane.v1 import tenant_pb2 as pb
from spotplane.v1 import tenant_pb2_grpc

from spotplane_server.kernel.api import paging, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.auth.authenticator import bump_epoch
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.tenants import environments_store, events, rules, store
from spotplane_server.tenants.environments_store import Environment
from spotplane_server.tenants.errors import EnvironmentNotFound, TenantNotFound


class EnvironmentsService(tenant_pb2_grpc.TenantServiceServicer):
    """Handlers for administrators; the proto comments are their contract."""

    _db: Database
    _clock: Clock
    _tokens: PageTokens

    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, context: Context
    ) -> pb.ListEnvironmentsResponse:
        tenant_id = _tenant_id(request)
        page = paging.read(
            request, self._tokens, default=50, maximum=100, filters={"tenant_id": tenant_id}
        )
        async with self._db.connection(tenant_id) as conn:
            await store.get_tenant(conn, tenant_id)
            found = await environments_store.list_environments(conn, page, tenant_id)
        items, pagination = paging.answer(
            page, found, self._tokens, lambda found: (found.created_at, found.id)
        )
        return pb.ListEnvironmentsResponse(
            data=[_message(item) for item in items], pagination=pagination
        )

    async def GetEnvironment(
        self, request: pb.GetEnvironmentRequest, context: Context
    ) -> pb.Environment:
        tenant_id, environment_id = _tenant_id(request), _environment_id(request)
        async with self._db.connection(tenant_id) as conn:
            await store.get_tenant(conn, tenant_id)
            found = await environments_store.find_environment(conn, tenant_id, environment_id)
        if found is None:
            raise EnvironmentNotFound(environment_id)
        return _message(found)

    async def UpdateEnvironment(
        self, request: pb.UpdateEnvironmentRequest, context: Context
    ) -> pb.Environment:
        tenant_id, environment_id = _tenant_id(request), _environment_id(request)
        changed = _changes(request)
        async with self._db.transaction(tenant_id) as conn:
            tenant = await store.lock_tenant(conn, tenant_id)
            if tenant is None:
                raise TenantNotFound(tenant_id)
            rules.check_not_deleted(tenant.status)
            before = await environments_store.lock_environment(conn, tenant_id, environment_id)
            if before is None:
                raise EnvironmentNotFound(environment_id)
            after = replace(before, **changed)
            await environments_store.update_limits(conn, after)
            await events.record_environment_change(
                conn,
                tenant_id,
                environment_id,
                before={name: getattr(before, name) for name in changed},
                after=changed,
                now=self._clock.now(),
            )
            await bump_epoch(conn)
        return _message(after)


def _tenant_id(request: Any) -> TenantId:
    return TenantId(wire.uuid(request.id, "id", "tenant ID"))


def _environment_id(request: Any) -> UUID:
    return wire.uuid(request.environment_id, "environment_id", "environment ID")


def _changes(request: pb.UpdateEnvironmentRequest) -> dict[str, Any]:
    def quota(field: str, maximum: int) -> int | None:
        # 0 removes the quota; an absent field leaves it unchanged.
        return wire.integer(getattr(request, field), field, 0, maximum) or None

    found: dict[str, Any] = wire.changes(
        request,
        {
            "requests_per_minute": lambda: wire.integer(
                request.requests_per_minute, "requests_per_minute", 1, rules.MAX_ENVIRONMENT_RPM
            ),
            "quota_tokens_per_minute": lambda: quota("quota_tokens_per_minute", rules.MAX_TPM),
            "quota_tokens_per_day": lambda: quota("quota_tokens_per_day", rules.MAX_TPD),
            "concurrency_limit": lambda: quota(
                "concurrency_limit", rules.MAX_ENVIRONMENT_CONCURRENCY
            ),
        },
    )
    return found


def _message(environment: Environment) -> pb.Environment:
    return pb.Environment(
        id=str(environment.id),
        tenant_id=str(environment.tenant_id),
        name=environment.name,
        region_code=environment.region_code,
        key_label=environment.key_label,
        status=environment.status,
        requests_per_minute=environment.requests_per_minute,
        quota_tokens_per_minute=environment.quota_tokens_per_minute,
        quota_tokens_per_day=environment.quota_tokens_per_day,
        concurrency_limit=environment.concurrency_limit,
        created_at=wire.timestamp(environment.created_at),
    )
