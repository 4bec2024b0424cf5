"""ApiKeyService: keys, for administrators and for tenants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from google.api import httpbody_pb2
from spotplane.v1 import api_key_pb2 as pb
from spotplane.v1 import api_key_pb2_grpc, pagination_pb2

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import http_body, paging, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.auth.authenticator import bump_epoch
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.tenants import events, key_lifecycle, keys_store, rules, store
from spotplane_server.tenants.errors import ApiKeyNotFound
from spotplane_server.tenants.key_lifecycle import IssuedKey, Rotation
from spotplane_server.tenants.keys_store import Draft, Key

MAX_NAME: Final = 255
MAX_DESCRIPTION: Final = 1000
MAX_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class KeyDefaults:
    """Default limits of a new key."""

    rate_limit_rpm: int
    concurrency_limit: int


class ApiKeyService(api_key_pb2_grpc.ApiKeyServiceServicer):
    """Handlers; the proto comments are their contract."""

    def __init__(
        self, db: Database, clock: Clock, tokens: PageTokens, *, defaults: KeyDefaults
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._defaults = defaults

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: Context
    ) -> pb.IssuedApiKey:
        tenant_id = TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))
        return await self._create(request, tenant_id)

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: Context
    ) -> pb.ListApiKeysResponse:
        tenant_id = TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))
        items, pagination = await self._list(request, tenant_id, default=1000, maximum=1000)
        return pb.ListApiKeysResponse(data=items, pagination=pagination)

    async def ListApiKeysFlat(
        self, request: pb.ListApiKeysRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        tenant_id = TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))
        items, pagination = await self._list(request, tenant_id, default=1000, maximum=1000)
        return http_body.answer(items, pagination, envelope=request.envelope)

    async def ListTenantApiKeys(
        self, request: pb.ListTenantApiKeysRequest, context: Context
    ) -> pb.ListTenantApiKeysResponse:
        tenant_id = TenantId(wire.uuid(request.id, "id", "tenant ID"))
        items, pagination = await self._list(request, tenant_id, default=50, maximum=100)
        return pb.ListTenantApiKeysResponse(data=items, pagination=pagination)

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, context: Context
    ) -> pb.RevokeApiKeyResponse:
        key_id = _key_id(request)
        async with self._db.transaction(ALL_TENANTS) as conn:
            key, _ = await _locked(conn, key_id, None)
            await key_lifecycle.revoke(conn, key, now=self._clock.now())
        return pb.RevokeApiKeyResponse(status="revoked", message="API key revoked")

    async def UpdateApiKey(self, request: pb.UpdateApiKeyRequest, context: Context) -> pb.ApiKey:
        key_id, now = _key_id(request), self._clock.now()
        changed = _changes(request, now)
        async with self._db.transaction(ALL_TENANTS) as conn:
            before, _ = await _locked(conn, key_id, None)
            rules.check_not_revoked(before.status)
            after = await keys_store.update_key(conn, replace(before, **changed), now=now)
            await events.record_key_change(
                conn,
                before.tenant_id,
                key_id,
                ("update", "updated"),
                before={name: getattr(before, name) for name in changed},
                after={name: getattr(after, name) for name in changed},
                data={"changed": sorted(changed)},
                now=now,
            )
            if rules.affects_authorization(changed):
                await bump_epoch(conn)
        return pb.ApiKey(**_fields(after))

    async def RotateApiKey(
        self, request: pb.RotateApiKeyRequest, context: Context
    ) -> pb.IssuedApiKey:
        return await self._rotate(request, None)

    async def SuspendApiKey(self, request: pb.SuspendApiKeyRequest, context: Context) -> pb.ApiKey:
        key_id = _key_id(request)
        reason = wire.optional_text(request, "reason", maximum=MAX_REASON)
        async with self._db.transaction(ALL_TENANTS) as conn:
            key, _ = await _locked(conn, key_id, None)
            rules.check_can_suspend_key(key.status, key.suspension_id)
            verb = ("suspend", "suspended")
            key = await key_lifecycle.set_status(
                conn, key, "suspended", verb, reason=reason, now=self._clock.now()
            )
        return pb.ApiKey(**_fields(key))

    async def ActivateApiKey(
        self, request: pb.ActivateApiKeyRequest, context: Context
    ) -> pb.ApiKey:
        key_id = _key_id(request)
        reason = wire.optional_text(request, "reason", maximum=MAX_REASON)
        async with self._db.transaction(ALL_TENANTS) as conn:
            key, tenant_status = await _locked(conn, key_id, None)
            rules.check_can_activate_key(key.status, tenant_status)
            verb = ("activate", "activated")
            key = await key_lifecycle.set_status(
                conn, key, "active", verb, reason=reason, now=self._clock.now()
            )
        return pb.ApiKey(**_fields(key))

    async def CreateOwnApiKey(
        self, request: pb.CreateOwnApiKeyRequest, context: Context
    ) -> pb.IssuedApiKey:
        return await self._create(request, request_context.own_tenant())

    async def ListOwnApiKeys(
        self, request: pb.ListOwnApiKeysRequest, context: Context
    ) -> pb.ListOwnApiKeysResponse:
        items, pagination = await self._list(
            request, request_context.own_tenant(), default=50, maximum=100
        )
        return pb.ListOwnApiKeysResponse(data=items, pagination=pagination)

    async def RevokeOwnApiKey(
        self, request: pb.RevokeOwnApiKeyRequest, context: Context
    ) -> pb.RevokeOwnApiKeyResponse:
        key_id, tenant_id = _key_id(request), request_context.own_tenant()
        async with self._db.transaction(tenant_id) as conn:
            key, _ = await _locked(conn, key_id, tenant_id)
            _check_may_manage(key.role)
            await key_lifecycle.revoke(conn, key, now=self._clock.now())
        return pb.RevokeOwnApiKeyResponse(status="revoked", message="API key revoked")

    async def RotateOwnApiKey(
        self, request: pb.RotateOwnApiKeyRequest, context: Context
    ) -> pb.IssuedApiKey:
        return await self._rotate(request, request_context.own_tenant())

    async def _create(self, request: Any, tenant_id: TenantId) -> pb.IssuedApiKey:
        now = self._clock.now()
        draft = self._draft(request, now)
        environment_id = wire.optional_uuid(request, "environment_id", "environment ID")
        _check_may_manage(draft.role)
        async with self._db.transaction(tenant_id) as conn:
            issued = await key_lifecycle.create(conn, tenant_id, environment_id, draft, now=now)
        request_context.created()
        return _issued(issued)

    async def _rotate(self, request: Any, owner: TenantId | None) -> pb.IssuedApiKey:
        key_id, now = _key_id(request), self._clock.now()
        grace = wire.optional_integer(request, "grace_period_seconds", 0, rules.MAX_GRACE_SECONDS)
        expires_at = wire.future(request, "expires_at", now)
        async with self._db.transaction(owner or ALL_TENANTS) as conn:
            key, _ = await _locked(conn, key_id, owner)
            _check_may_manage(key.role)
            rotation = await key_lifecycle.rotate(
                conn,
                key,
                expires_at=expires_at,
                grace_seconds=rules.DEFAULT_GRACE_SECONDS if grace is None else grace,
                now=now,
            )
        request_context.created()
        return _issued(rotation.successor, rotation)

    async def _list(
        self, request: Any, tenant_id: TenantId, *, default: int, maximum: int
    ) -> tuple[list[pb.ApiKey], pagination_pb2.Pagination]:
        status = wire.optional_one_of(request, "status", rules.KEY_STATUSES)
        filters = {"tenant_id": tenant_id, "status": status}
        page = paging.read(request, self._tokens, default=default, maximum=maximum, filters=filters)
        async with self._db.connection(tenant_id) as conn:
            # The authenticator guarantees that a tenant's key has a tenant.
            own = request_context.current().caller.tenant_id == tenant_id
            if not own:
                await store.get_tenant(conn, tenant_id)
            found = await keys_store.list_keys(conn, page, tenant_id, status=status)
        items, pagination = paging.answer(
            page, found, self._tokens, lambda key: (key.created_at, key.id)
        )
        return [pb.ApiKey(**_fields(key)) for key in items], pagination

    def _draft(self, request: Any, now: datetime) -> Draft:
        rpm = wire.optional_integer(request, "rate_limit_rpm", 1, rules.MAX_RPM)
        alias = wire.optional_integer(request, "rate_limit", 1, rules.MAX_RPM)
        concurrency = wire.optional_integer(request, "concurrency_limit", 1, rules.MAX_CONCURRENCY)
        return Draft(
            name=wire.optional_text(request, "name", maximum=MAX_NAME) or "",
            description=wire.optional_text(request, "description", maximum=MAX_DESCRIPTION),
            role=wire.optional_one_of(request, "role", rules.ROLES) or rules.DEFAULT_ROLE,
            rate_limit_rpm=rpm or alias or self._defaults.rate_limit_rpm,
            rate_limit_tpm=wire.optional_integer(request, "rate_limit_tpm", 1, rules.MAX_TPM),
            concurrency_limit=concurrency or self._defaults.concurrency_limit,
            expires_at=wire.future(request, "expires_at", now),
        )


def _key_id(request: Any) -> UUID:
    return wire.uuid(request.key_id, "key_id", "API key ID")


def _check_may_manage(role: str) -> None:
    """Check that the caller's role may manage keys of the role; administrators may manage all."""
    caller = request_context.current().caller
    if caller.kind != "admin":
        rules.check_may_manage(caller.role, role)


async def _locked(conn: Conn, key_id: UUID, owner: TenantId | None) -> tuple[Key, str]:
    found = await keys_store.lock_key(conn, key_id, owner)
    if found is None:
        raise ApiKeyNotFound(key_id)
    return found


def _changes(request: pb.UpdateApiKeyRequest, now: datetime) -> dict[str, Any]:
    def number(field: str, maximum: int) -> int:
        return wire.integer(getattr(request, field), field, 1, maximum)

    found: dict[str, Any] = wire.changes(
        request,
        {
            "name": lambda: wire.text(request.name, "name", maximum=MAX_NAME),
            "description": lambda: wire.text(
                request.description, "description", maximum=MAX_DESCRIPTION
            ),
            "role": lambda: wire.one_of(request.role, "role", rules.ROLES),
            "rate_limit_rpm": lambda: number("rate_limit_rpm", rules.MAX_RPM),
            "rate_limit_tpm": lambda: number("rate_limit_tpm", rules.MAX_TPM),
            "concurrency_limit": lambda: number("concurrency_limit", rules.MAX_CONCURRENCY),
            "expires_at": lambda: wire.future(request, "expires_at", now),
        },
    )
    return found


def _issued(issued: IssuedKey, rotation: Rotation | None = None) -> pb.IssuedApiKey:
    message = pb.IssuedApiKey(**_fields(issued.key), key=issued.secret)
    if rotation is not None:
        message.old_key_id = str(rotation.old.id)
        message.old_key_expires_at.FromDatetime(rotation.old_expires_at)
    return message


def _fields(key: Key) -> dict[str, Any]:
    prefix = f"{key.key_prefix}..."
    return {
        "id": str(key.id),
        "tenant_id": str(key.tenant_id),
        "environment_id": str(key.environment_id),
        "name": key.name,
        "description": key.description,
        "key_prefix": prefix,
        "role": key.role,
        "status": key.status,
        "rate_limit_rpm": key.rate_limit_rpm,
        "rate_limit_tpm": key.rate_limit_tpm,
        "concurrency_limit": key.concurrency_limit,
        "created_at": wire.timestamp(key.created_at),
        "updated_at": wire.timestamp(key.updated_at),
        "last_used_at": wire.timestamp(key.last_used_at),
        "expires_at": wire.timestamp(key.expires_at),
        "rotated_from": str(key.rotated_from) if key.rotated_from else None,
        "replaced_by": str(key.replaced_by) if key.replaced_by else None,
        "prefix": prefix,
        "rate_limit": key.rate_limit_rpm,
        "rate_limit_per_minute": key.rate_limit_rpm,
    }
