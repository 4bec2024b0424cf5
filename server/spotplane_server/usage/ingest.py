"""Taking usage records: checked, priced, stored once, added to the sums, in one commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane.v1 import usage_pb2 as pb

from spotplane_server.kernel import metrics
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.errors import Invalid, Semantic, Violation
from spotplane_server.kernel.ratelimit import policy as rate_limit_policy
from spotplane_server.kernel.ratelimit.limiter import RateLimiter
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage import dead_letters, store
from spotplane_server.usage.dead_letters import Refused, Sender
from spotplane_server.usage.pricing import PriceBook
from spotplane_server.usage.rollup_builder import Dimensions, Place, Priced, build_rollups
from spotplane_server.usage.rollup_store import add_to_rollups
from spotplane_server.usage.rules import AcceptedWindow, Draft, Fault, Reader, Scope

# One record cannot cost more than a million dollars; sums of an hour then stay within 64 bits.
MAX_COST_NANOS: Final = 10**15
ONE_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RecordError:
    """Why one record was refused; ``index`` is its position in the batch."""

    index: int
    request_id: str
    code: str
    field: str
    description: str


@dataclass(slots=True)
class Result:
    """What became of a batch; ``errors`` are one a refusal, by position."""

    accepted: int = 0
    duplicates: int = 0
    errors: list[RecordError] = field(default_factory=list)

    @property
    def rejected(self) -> int:
        """Records refused."""
        return len(self.errors)


class BatchRefused(Exception):
    """Leaves the transaction of an atomic batch; turned into the caller's error outside of it."""


async def ingest(
    db: Database,
    tenant_id: TenantId | None,
    environment_id: UUID | None,
    records: Sequence[pb.UsageRecord],
    now: datetime,
    *,
    window: AcceptedWindow | None = None,
    atomic: bool = False,
    limits: RateLimiter | None = None,
    sender: Sender | None = None,
) -> Result:
    """Store a batch in one transaction; safe to repeat.

    Args:
        db: The database.
        tenant_id: The caller's; None for administrators, whose records name their tenants.
        environment_id: For records that name neither an environment nor a key.
        records: A few thousand at most; that is for the caller to hold.
        now: Time of records that name none.
        window: How far from now a record's time may lie.
        atomic: Refuse all when one is refused.
        limits: Where the tokens of records that name a key are charged.
        sender: Keep what is refused as dead letters of this sender.

    Returns:
        What became of the records; it is committed.

    Raises:
        Invalid, Semantic: The batch is atomic and a record was refused; nothing is stored.
        asyncpg.PostgresError: The database failed; nothing is stored.
    """
    batch = Batch(records, Result(), atomic)
    owner = str(tenant_id) if tenant_id else None
    drafts = batch.read(Reader(owner, now, window or AcceptedWindow()))
    default = str(environment_id) if environment_id else None
    kept = unpriced = 0
    try:
        if drafts or (sender and batch.result.errors):
            # A stream of batches lasts longer than a transaction may stay open, and a record that
            # is sent again is a duplicate.
            async with db.transaction(tenant_id or ALL_TENANTS, is_independent=True) as conn:
                if drafts:
                    unpriced = await store_drafts(conn, batch, drafts, default, now)
                batch.refuse_if_atomic()
                if sender and batch.result.errors:
                    refused = batch.refused(tenant_id)
                    kept = await dead_letters.keep(conn, sender, environment_id, refused, now)
            if limits is not None and batch.spent:
                await limits.spend(batch.spent, now.timestamp())
        batch.refuse_if_atomic()
    except BatchRefused:
        metrics.USAGE.labels("rejected").inc(len(records))
        raise _refusal(batch.result) from None
    batch.result.errors.sort(key=lambda e: e.index)
    metrics.UNPRICED.inc(unpriced)
    metrics.DEAD_LETTERS.inc(kept)
    count(batch.result)
    if drafts:
        oldest = min(draft.at for draft in drafts)
        metrics.USAGE_LAG.observe(max(0.0, (now - oldest).total_seconds()))
    return batch.result


@dataclass(slots=True)
class Batch:
    """Records and what becomes of them."""

    records: Sequence[pb.UsageRecord]
    result: Result
    atomic: bool = False
    spent: Mapping[str, int] = field(default_factory=dict)

    def read(self, reader: Reader) -> list[Draft]:
        """Check all; those that are refused are in the result."""
        drafts = []
        for index, record in enumerate(self.records):
            try:
                drafts.append(reader.read(index, record))
            except Fault as fault:
                self.refuse(index, fault)
        return drafts

    def refuse(self, index: int, fault: Fault) -> None:
        """Say why a record is refused."""
        self.result.errors.append(
            RecordError(
                index,
                self.records[index].request_id,
                fault.code,
                fault.field,
                fault.description,
            )
        )

    def refused(self, tenant_id: UUID | None) -> list[Refused]:
        """Those refused, each of the tenant given or else of the one that it names."""
        return [
            Refused(
                tenant_id or _claimed(self.records[e.index]),
                self.records[e.index],
                e.code,
                e.field,
                e.description,
            )
            for e in self.result.errors
        ]

    def refuse_if_atomic(self) -> None:
        """Leave the transaction when one refusal is everybody's.

        Raises:
            BatchRefused: It is.
        """
        if self.atomic and self.result.errors:
            raise BatchRefused


async def store_drafts(
    conn: Conn, batch: Batch, drafts: list[Draft], environment_id: str | None, now: datetime
) -> int:
    """Price and store well-formed records within the caller's transaction.

    Returns:
        How many of them have no model, so no price.
    """
    places = await _places(conn, drafts, environment_id)
    priced = _price(batch, drafts, places)
    fresh = await _fresh(conn, batch, priced)
    if fresh:
        await store.insert_records(conn, fresh, now)
        # Last, because it is what concurrent writers of one tenant wait for.
        await add_to_rollups(conn, build_rollups(fresh))
    batch.result.accepted = len(fresh)
    batch.spent = _spent(fresh, now)
    return sum(r.place.dimensions.model_id is None for r in fresh)


async def _places(
    conn: Conn, drafts: Sequence[Draft], environment_id: str | None
) -> dict[Scope, Place | Fault]:
    scopes = {draft.scope for draft in drafts}
    oldest = min(draft.at for draft in drafts)
    owners = await store.find_owners(conn, scopes)
    models = await store.find_models(conn, scopes, oldest)
    regions = await store.find_regions(conn, scopes, oldest)
    books: dict[tuple[str | None, str | None], PriceBook] = {}
    known: dict[Dimensions, Place] = {}
    places: dict[Scope, Place | Fault] = {}
    for scope in scopes:
        try:
            of = _dimensions(scope, owners, models, regions, environment_id)
        except Fault as fault:
            places[scope] = fault
            continue
        priced_by = (of.model_id, of.region_id)
        if priced_by not in books:
            books[priced_by] = PriceBook(
                models.histories[of.model_id] if of.model_id else [],
                regions.histories[of.region_id] if of.region_id else [],
            )
        places[scope] = known.setdefault(of, Place(of, books[priced_by]))
    return places


def _dimensions(
    scope: Scope,
    owners: store.Owners,
    models: store.Catalog,
    regions: store.Catalog,
    environment_id: str | None,
) -> Dimensions:
    tenant = scope.tenant_id
    if tenant not in owners.tenants:
        raise Fault("INVALID_RECORD", "tenant_id", "no such tenant")
    environment = scope.environment_id or environment_id
    if scope.api_key_id:
        owner = owners.key_environments.get((tenant, scope.api_key_id))
        if owner is None:
            raise Fault("UNKNOWN_KEY", "api_key_id", "no such API key of the tenant")
        environment = scope.environment_id or owner
    if scope.environment_id and (tenant, scope.environment_id) not in owners.environments:
        raise Fault("INVALID_RECORD", "environment_id", "no such environment of the tenant")
    return Dimensions(
        tenant,
        environment,
        scope.api_key_id,
        _known(models, scope.model_id, scope.model, "UNKNOWN_MODEL", "model"),
        _known(regions, scope.region_id, scope.region_code, "UNKNOWN_REGION", "region"),
    )


def _known(
    catalog: store.Catalog, named_id: str | None, name: str | None, code: str, what: str
) -> str | None:
    if named_id is None and name is None:
        return None
    found = named_id or catalog.ids.get(name or "")
    if found not in catalog.histories:
        at_fault = f"{what}_id" if named_id else {"region": "region_code"}.get(what, what)
        raise Fault(code, at_fault, f"no such {what}")
    return found


def _price(
    batch: Batch, drafts: Iterable[Draft], places: dict[Scope, Place | Fault]
) -> list[Priced]:
    priced = []
    for draft in drafts:
        place = places[draft.scope]
        if isinstance(place, Fault):
            batch.refuse(draft.index, place)
            continue
        rates = place.prices.at(draft.at)
        cost = rates.cost_nanos(draft.prompt_tokens, draft.cached_tokens, draft.completion_tokens)
        if cost > MAX_COST_NANOS:
            batch.refuse(draft.index, Fault("SEMANTIC", "prompt_tokens", "costs beyond reason"))
            continue
        priced.append(Priced(draft, place, rates, cost))
    return priced


async def _fresh(conn: Conn, batch: Batch, priced: Sequence[Priced]) -> list[Priced]:
    """Those whose request ids were free; the others are counted as duplicates or refused."""
    first: dict[store.RequestKey, Priced] = {}
    again: list[Priced] = []
    for record in priced:
        key = _key(record)
        if first.setdefault(key, record) is not record:
            again.append(record)
    if not first:
        return []
    held = await store.claim_request_ids(conn, [r.draft for r in first.values()])
    fresh = [record for key, record in first.items() if key not in held]
    content = {key: first[key].draft.content_hash for key in first.keys() - held} if again else {}
    if held:
        content |= await store.find_content(conn, list(held))
        again = [first[key] for key in held] + again
    for record in again:
        # An id may have left by retention in between: then what it held is not known any more.
        if content.get(_key(record)) == record.draft.content_hash:
            batch.result.duplicates += 1
        else:
            reused = Fault("REQUEST_ID_REUSED", "request_id", "was used for other content")
            batch.refuse(record.draft.index, reused)
    return fresh


def _spent(fresh: Iterable[Priced], now: datetime) -> Mapping[str, int]:
    """What draws on the budgets of now: no window reaches back behind a day."""
    since = now - ONE_DAY
    amounts: defaultdict[Place, int] = defaultdict(int)
    for record in fresh:
        draft = record.draft
        if draft.at > since:
            amounts[record.place] += draft.prompt_tokens + draft.completion_tokens
    spenders = [(place.dimensions, amount) for place, amount in amounts.items()]
    return rate_limit_policy.tokens(
        [(of.api_key_id, of.environment_id, n) for of, n in spenders if of.api_key_id is not None]
    )


def _key(record: Priced) -> store.RequestKey:
    return record.draft.scope.tenant_id, record.draft.request_id


def _claimed(record: pb.UsageRecord) -> UUID | None:
    try:
        return UUID(record.tenant_id)
    except ValueError:
        return None


def _refusal(result: Result) -> Invalid:
    details = [
        Violation(f"records[{e.index}].{e.field}", f"{e.code}: {e.description}")
        for e in sorted(result.errors, key=lambda e: e.index)
    ]
    message = f"{len(details)} records were refused, so nothing was stored"
    if any(e.code == "INVALID_RECORD" for e in result.errors):
        return Invalid(message, reason="INVALID_RECORD", details=details)
    return Semantic(message, details=details)


def count(result: Result) -> None:
    """Tell the metrics of a batch that is committed."""
    metrics.USAGE.labels("accepted").inc(result.accepted)
    metrics.USAGE.labels("duplicate").inc(result.duplicates)
    metrics.USAGE.labels("rejected").inc(result.rejected)
