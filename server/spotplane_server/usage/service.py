"""UsageService: records in, answers out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar, cast

import grpc.aio
from google.protobuf.message import Message
from spotplane.v1 import usage_pb2 as pb

from spotplane_server.kernel import calls, paging, wire
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Conn, Database
from spotplane_server.kernel.gather import gathered
from spotplane_server.kernel.paging import PageTokens
from spotplane_server.usage import analytics, answers, windows
from spotplane_server.usage.analytics import GROUPINGS, Grouping, Query
from spotplane_server.usage.dead_letters import Sender
from spotplane_server.usage.dead_letters_service import DeadLetterHandlers
from spotplane_server.usage.ingest import Result
from spotplane_server.usage.intake import Intake
from spotplane_server.usage.metrics_service import MetricsHandlers
from spotplane_server.usage.reading import Question, Reading
from spotplane_server.usage.rules import MAX_BATCH
from spotplane_server.usage.total_answers import echo, told
from spotplane_server.usage.totals_service import TotalsHandlers
from spotplane_server.usage.upkeep_service import UpkeepHandlers
from spotplane_server.usage.windows import Window

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

MAX_PAGE: Final = 1000
MAX_STREAM_ERRORS: Final = 1000
# Of a stream, stored in one transaction when they came in while the ones before were being stored.
MAX_CHUNKS: Final = 4

_Detailed = TypeVar("_Detailed", pb.GetUsageDetailedResponse, pb.GetTenantUsageDetailedResponse)
_DetailedRequest: TypeAlias = pb.GetUsageDetailedRequest | pb.GetTenantUsageDetailedRequest


class UsageService(TotalsHandlers, MetricsHandlers, UpkeepHandlers, DeadLetterHandlers):
    """Handlers; the proto comments are their contract."""

    def __init__(
        self,
        db: Database,
        reading: Reading,
        clock: Clock,
        tokens: PageTokens,
        intake: Intake,
    ) -> None:
        self._db = db
        self._reading = reading
        self._clock = clock
        self._tokens = tokens
        self._intake = intake

    async def IngestUsage(
        self, request_iterator: AsyncIterator[pb.IngestUsageRequest], context: Context
    ) -> pb.IngestUsageResponse:
        response, first = pb.IngestUsageResponse(), 0
        async with gathered(_chunks(request_iterator), MAX_CHUNKS) as batches:
            async for batch in batches:
                records = [record for chunk in batch for record in chunk.records]
                result = await self._ingest(records, keep_refused=True)
                response.accepted += result.accepted
                response.duplicates += result.duplicates
                response.rejected += result.rejected
                room = MAX_STREAM_ERRORS - len(response.errors)
                response.errors.extend(answers.record_errors(result.errors[:room], first))
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
            errors=answers.record_errors(result.errors),
        )

    async def GetUsageDetailed(
        self, request: pb.GetUsageDetailedRequest, context: Context
    ) -> pb.GetUsageDetailedResponse:
        return await self._detailed(
            request, pb.GetUsageDetailedResponse, calls.own_tenant(), default_limit=100
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
        asked, after = _continue(windows.read(request, self._clock.now()), page)
        window = asked.whole_hours

        async def work(conn: Conn) -> pb.ListTenantDeploymentsResponse:
            found = await analytics.list_deployments(conn, tenant_id, window, page, after)
            rows, pagination = paging.cut(page, found)
            return pb.ListTenantDeploymentsResponse(
                data=[answers.deployment(row) for row in rows], pagination=pagination
            )

        question = Question(tenant_id, request, [*window.bounds, *after])
        found = await self._reading.ask(question, pb.ListTenantDeploymentsResponse, work)
        if found.pagination.has_more:
            last = found.data[-1]
            found.pagination.next_page_token = self._tokens.seal(
                page.binding, [*_bounds(asked), last.total_requests, last.model_id]
            )
        found.tenant_id = str(tenant_id)
        return told(
            found, start_date=wire.timestamp(asked.start), end_date=wire.timestamp(asked.end)
        )

    async def _ingest(
        self,
        records: Sequence[pb.UsageRecord],
        *,
        atomic: bool = False,
        keep_refused: bool = False,
    ) -> Result:
        caller = calls.current().caller
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
        asked: Window
        after: list[Any]
        asked, after = _continue(windows.read(request, self._clock.now()), page)
        query: Query = self._query(request, tenant_id, asked)

        async def work(conn: Conn) -> _Detailed:
            found = await analytics.list_groups(conn, query, page, after)
            groups, pagination = paging.cut(page, found)
            rows = [answers.usage_row(group, query.group_by) for group in groups]
            return kind(data=rows, pagination=pagination)

        question = Question(
            tenant_id,
            request,
            [*_bounds(query.window), *after],
            # Up to this very instant nobody else asks.
            kept=not query.exact or request.HasField("end_date"),
        )
        answer: _Detailed = await self._reading.ask(question, kind, work)
        if answer.pagination.has_more:
            answer.pagination.next_page_token = self._tokens.seal(
                page.binding,
                [*_bounds(asked), *answers.usage_row_key(answer.data[-1], query.group_by)],
            )
        answer.group_by = query.group_by
        source = "raw" if query.exact else "rollup"
        return told(answer, **echo(asked, query.window, source))

    def _query(self, request: _DetailedRequest, tenant_id: TenantId, window: Window) -> Query:
        if request.exact:
            windows.check_exact(window, self._clock.now())
        group_by = wire.optional_one_of(request, "group_by", GROUPINGS) or "model"
        return Query(
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
    """All that was sent but the page itself: a token is good for the same question only."""
    page = {"limit", "offset", "page_token"}
    return {f.name: value for f, value in request.ListFields() if f.name not in page}


def _continue(window: Window, page: paging.Page) -> tuple[Window, list[Any]]:
    """The first page's window, as "now" must not move between pages, and the rest of the key."""
    if page.after is None:
        return window, []
    start, end, *after = page.after
    return Window(datetime.fromisoformat(start), datetime.fromisoformat(end)), after


def _bounds(window: Window) -> tuple[datetime, datetime]:
    return window.start, window.end
