"""UsageService: ingest and grouped queries; the other handlers are in `*_service` modules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar, cast

import asyncpg
import grpc.aio
from google.protobuf.message import Message
from spotplane.v1 import usage_pb2 as pb

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, wire
from spotplane_server.kernel.api.paging import PageTokens, Slice
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.read_ahead import read_ahead
from spotplane_server.usage import convert, group_queries, rollup_queries, time_windows
from spotplane_server.usage.cached_queries import CacheableQuery, CachedQueries
from spotplane_server.usage.convert_totals import windows, with_fields
from spotplane_server.usage.dead_letters import Sender
from spotplane_server.usage.dead_letters_service import DeadLetterHandlers
from spotplane_server.usage.group_queries import GROUPINGS, Group, Grouping, GroupQuery
from spotplane_server.usage.ingest import Result
from spotplane_server.usage.intake import Intake
from spotplane_server.usage.metrics_service import MetricsHandlers
from spotplane_server.usage.queries_service import QueryHandlers
from spotplane_server.usage.rollup_repair_service import RollupRepairHandlers
from spotplane_server.usage.rules import MAX_BATCH
from spotplane_server.usage.time_windows import Window

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

MAX_PAGE: Final = 1000
MAX_STREAM_ERRORS: Final = 1000
# Of a stream, stored in one transaction when they came in while the ones before were being stored.
MAX_CHUNKS: Final = 4

_Detailed = TypeVar("_Detailed", pb.GetUsageDetailedResponse, pb.GetTenantUsageDetailedResponse)
_DetailedRequest: TypeAlias = pb.GetUsageDetailedRequest | pb.GetTenantUsageDetailedRequest


class UsageService(QueryHandlers, MetricsHandlers, RollupRepairHandlers, DeadLetterHandlers):
    """Handlers; the proto comments are their contract."""

    def __init__(
        self,
        db: Database,
        queries: CachedQueries,
        clock: Clock,
        tokens: PageTokens,
        intake: Intake,
    ) -> None:
        self._db = db
        self._queries = queries
        self._clock = clock
        self._tokens = tokens
        self._intake = intake

    async def IngestUsage(
        self, request_iterator: AsyncIterator[pb.IngestUsageRequest], context: Context
    ) -> pb.IngestUsageResponse:
        response, first = pb.IngestUsageResponse(), 0
        async with read_ahead(_chunks(request_iterator), MAX_CHUNKS) as batches:
            async for batch in batches:
                records = [record for chunk in batch for record in chunk.records]
                result = await self._ingest(records, keep_refused=True)
                response.accepted += result.accepted
                response.duplicates += result.duplicates
                response.rejected += result.rejected
                room = MAX_STREAM_ERRORS - len(response.errors)
                response.errors.extend(convert.record_errors(result.errors[:room], first))
                first += len(records)
        return response

    async def IngestUsageBatch(
        self, request: pb.IngestUsageBatchRequest, context: Context
    ) -> pb.IngestUsageBatchResponse:
        _check_size(len(request.records), minimum=1)
        result = await self._ingest(request.records, atomic=request.atomic)
        return pb.IngestUsageBatchResponse(
            accepted=result.accepted,
            duplicates=result.duplicates,
            rejected=result.rejected,
            errors=convert.record_errors(result.errors),
        )

    async def GetUsageDetailed(
        self, request: pb.GetUsageDetailedRequest, context: Context
    ) -> pb.GetUsageDetailedResponse:
        return await self._detailed(
            request, pb.GetUsageDetailedResponse, request_context.own_tenant(), default_limit=100
        )

    async def GetTenantUsageDetailed(
        self, request: pb.GetTenantUsageDetailedRequest, context: Context
    ) -> pb.GetTenantUsageDetailedResponse:
        tenant_id = TenantId(wire.uuid(request.id, "id", "tenant ID"))
        found = await self._detailed(
            request, pb.GetTenantUsageDetailedResponse, tenant_id, default_limit=MAX_PAGE
        )
        found.tenant_id = str(tenant_id)
        return found

    async def ListTenantDeployments(
        self, request: pb.ListTenantDeploymentsRequest, context: Context
    ) -> pb.ListTenantDeploymentsResponse:
        tenant_id = TenantId(wire.uuid(request.id, "id", "tenant ID"))
        page = paging.read(
            request, self._tokens, default=100, maximum=MAX_PAGE, filters=_filters(request)
        )
        requested, after = _continue(time_windows.read(request, self._clock.now()), page)
        window = requested.whole_hours

        async def load(conn: Conn) -> Slice[asyncpg.Record]:
            return await rollup_queries.list_deployments(conn, tenant_id, window, page, after)

        def render(found: Slice[asyncpg.Record]) -> pb.ListTenantDeploymentsResponse:
            rows, pagination = paging.cut(page, found)
            return pb.ListTenantDeploymentsResponse(
                data=[convert.deployment(row) for row in rows], pagination=pagination
            )

        found = await self._queries.fetch(
            CacheableQuery(
                tenant_id,
                request,
                [*window.bounds, *after],
                pb.ListTenantDeploymentsResponse,
                load,
                render,
            )
        )
        if found.pagination.has_more:
            last = found.data[-1]
            found.pagination.next_page_token = self._tokens.seal(
                page.binding, [*_bounds(requested), last.total_requests, last.model_id]
            )
        found.tenant_id = str(tenant_id)
        return with_fields(
            found,
            start_date=wire.timestamp(requested.start),
            end_date=wire.timestamp(requested.end),
        )

    async def _ingest(
        self,
        records: Sequence[pb.UsageRecord],
        *,
        atomic: bool = False,
        keep_refused: bool = False,
    ) -> Result:
        caller = request_context.current().caller
        return await self._intake.take(
            Sender("admin" if caller.tenant_id is None else "tenant", caller.id),
            caller.tenant_id,
            caller.environment_id,
            records,
            self._clock.now(),
            atomic=atomic,
            keep_refused=keep_refused,
        )

    async def _detailed(
        self,
        request: _DetailedRequest,
        kind: type[_Detailed],
        tenant_id: TenantId,
        *,
        default_limit: int,
    ) -> _Detailed:
        page = paging.read(
            request,
            self._tokens,
            default=default_limit,
            maximum=MAX_PAGE,
            filters=_filters(request) | {"tenant_id": tenant_id},
        )
        requested: Window
        after: list[Any]
        requested, after = _continue(time_windows.read(request, self._clock.now()), page)
        query: GroupQuery = self._query(request, tenant_id, requested)

        async def load(conn: Conn) -> Slice[Group]:
            return await group_queries.list_groups(conn, query, page, after)

        def render(found: Slice[Group]) -> _Detailed:
            groups, pagination = paging.cut(page, found)
            rows = [convert.usage_row(group, query.group_by) for group in groups]
            return kind(data=rows, pagination=pagination)

        answer: _Detailed = await self._queries.fetch(
            CacheableQuery(
                tenant_id,
                request,
                [*_bounds(query.window), *after],
                kind,
                load,
                render,
                # No other caller can ask for a window that ends at this very instant.
                cacheable=not query.exact or request.HasField("end_date"),
            )
        )
        if answer.pagination.has_more:
            answer.pagination.next_page_token = self._tokens.seal(
                page.binding,
                [*_bounds(requested), *convert.usage_row_key(answer.data[-1], query.group_by)],
            )
        answer.group_by = query.group_by
        source = "raw" if query.exact else "rollup"
        return with_fields(answer, **windows(requested, query.window, source))

    def _query(self, request: _DetailedRequest, tenant_id: TenantId, window: Window) -> GroupQuery:
        if request.exact:
            time_windows.check_exact(window, self._clock.now())
        group_by = wire.optional_one_of(request, "group_by", GROUPINGS) or "model"
        return GroupQuery(
            tenant_id,
            window if request.exact else window.whole_hours,
            cast("Grouping", group_by),
            wire.optional_uuid(request, "model_id", "model ID format"),
            wire.optional_uuid(request, "api_key_id", "API key ID"),
            wire.optional_uuid(request, "region_id", "region ID"),
            request.exact,
        )


async def _chunks(
    requests: AsyncIterator[pb.IngestUsageRequest],
) -> AsyncIterator[pb.IngestUsageRequest]:
    async for request in requests:
        _check_size(len(request.records), minimum=0)
        yield request


def _check_size(count: int, *, minimum: int) -> None:
    if count < minimum:
        raise wire.missing("records")
    if count > MAX_BATCH:
        raise wire.out_of_range("records", f"at most {MAX_BATCH}")


def _filters(request: Message) -> dict[str, Any]:
    """Return all fields except the page: a token is valid for the same query only."""
    page = {"limit", "offset", "page_token"}
    return {f.name: value for f, value in request.ListFields() if f.name not in page}


def _continue(window: Window, page: paging.Page) -> tuple[Window, list[Any]]:
    """Return the first page's window, because "now" must not move, and the rest of the key."""
    if page.after is None:
        return window, []
    start, end, *after = page.after
    return Window(datetime.fromisoformat(start), datetime.fromisoformat(end)), after


def _bounds(window: Window) -> tuple[datetime, datetime]:
    return window.start, window.end
