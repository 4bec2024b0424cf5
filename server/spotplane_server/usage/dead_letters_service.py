"""The part of UsageService by which operators look after what could not be stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import grpc.aio
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from spotplane_server import audit
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.tenants import store as tenants
from spotplane_server.usage import dead_letter_retry, dead_letters
from spotplane_server.usage.ingest import count
from spotplane_server.usage.intake import Intake
from spotplane_server.usage.rules import CODES

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

MAX_PAGE: Final = 100


class DeadLetterHandlers(usage_pb2_grpc.UsageServiceServicer):
    """Handlers; the proto comments are their contract."""

    _db: Database
    _clock: Clock
    _tokens: PageTokens
    _intake: Intake

    async def ListUsageDeadLetters(
        self, request: pb.ListUsageDeadLettersRequest, context: Context
    ) -> pb.ListUsageDeadLettersResponse:
        tenant_id = _tenant(request)
        code = wire.optional_one_of(request, "code", CODES)
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=MAX_PAGE,
            filters={"tenant_id": tenant_id, "code": code},
        )
        async with self._db.connection(tenant_id) as conn:
            await tenants.get_tenant(conn, tenant_id)
            found = await dead_letters.list_page(conn, tenant_id, code, page)
        rows, pagination = paging.answer(
            page, found, self._tokens, lambda row: [row["received_at"], row["id"]]
        )
        return pb.ListUsageDeadLettersResponse(
            data=[_message(tenant_id, row) for row in rows], pagination=pagination
        )

    async def RetryUsageDeadLetters(
        self, request: pb.RetryUsageDeadLettersRequest, context: Context
    ) -> pb.RetryUsageDeadLettersResponse:
        tenant_id, ids, now = _tenant(request), _ids(request.ids), self._clock.now()
        slot = self._intake.slots.acquire(str(tenant_id))
        async with slot, self._db.transaction(tenant_id) as conn:
            await tenants.get_tenant(conn, tenant_id)
            result = await dead_letter_retry.retry(conn, tenant_id, ids, self._intake.window, now)
            remaining = await dead_letters.count(conn, tenant_id)
            counts = {"accepted": result.accepted, "rejected": result.rejected}
            await self._record(conn, tenant_id, "usage.dead_letters.retry", counts)
        count(result)
        self._intake.taken.hint()
        return pb.RetryUsageDeadLettersResponse(
            accepted=result.accepted,
            duplicates=result.duplicates,
            rejected=result.rejected,
            remaining=remaining,
        )

    async def DiscardUsageDeadLetters(
        self, request: pb.DiscardUsageDeadLettersRequest, context: Context
    ) -> pb.DiscardUsageDeadLettersResponse:
        tenant_id, ids = _tenant(request), _ids(request.ids)
        if not ids:
            raise wire.missing("ids")
        async with self._db.transaction(tenant_id) as conn:
            await tenants.get_tenant(conn, tenant_id)
            discarded = await dead_letters.discard(conn, tenant_id, ids)
            counts = {"discarded": discarded}
            await self._record(conn, tenant_id, "usage.dead_letters.discard", counts)
        return pb.DiscardUsageDeadLettersResponse(discarded=discarded)

    async def _record(
        self, conn: Conn, tenant_id: TenantId, action: str, counts: dict[str, int]
    ) -> None:
        change = audit.Change(action, "usage", str(tenant_id), tenant_id, after=counts)
        await audit.record(conn, request_context.current(), change, self._clock.now())


def _tenant(
    request: pb.ListUsageDeadLettersRequest
    | pb.RetryUsageDeadLettersRequest
    | pb.DiscardUsageDeadLettersRequest,
) -> TenantId:
    return TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))


def _ids(texts: Sequence[str]) -> list[UUID]:
    if len(texts) > dead_letter_retry.LIMIT:
        raise wire.out_of_range("ids", f"at most {dead_letter_retry.LIMIT}")
    return [wire.uuid(text, f"ids[{n}]", "dead letter ID") for n, text in enumerate(texts)]


def _message(tenant_id: TenantId, row: asyncpg.Record) -> pb.UsageDeadLetter:
    return pb.UsageDeadLetter(
        id=str(row["id"]),
        tenant_id=str(tenant_id),
        record=pb.UsageRecord.FromString(row["record"]),
        code=row["code"],
        field=row["field"],
        description=row["description"],
        sender_kind=row["sender_kind"],
        sender_id=row["sender_id"],
        received_at=wire.timestamp(row["received_at"]),
    )
