"""InstanceTypeService: create, read, update, delete and associate instance types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.api import httpbody_pb2
from spotplane.v1 import instance_type_pb2 as pb
from spotplane.v1 import instance_type_pb2_grpc

from spotplane_server.catalog import associations_store, convert, mutations, requests, rules
from spotplane_server.catalog import instance_types_store as store
from spotplane_server.catalog.errors import InstanceTypeNotFound
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import http_body, paging, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import Semantic, Violation
from spotplane_server.kernel.rpc.interceptor import Context


class InstanceTypeService(instance_type_pb2_grpc.InstanceTypeServiceServicer):
    """Handlers; the proto comments are their contract."""

    def __init__(self, db: Database, clock: Clock, tokens: paging.PageTokens) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens

    async def ListInstanceTypes(
        self, request: pb.ListInstanceTypesRequest, context: Context
    ) -> pb.ListInstanceTypesResponse:
        return await self._list(request)

    async def ListInstanceTypesFlat(
        self, request: pb.ListInstanceTypesRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        found = await self._list(request)
        return http_body.answer(found.data, found.pagination, envelope=request.envelope)

    async def CreateInstanceType(
        self, request: pb.CreateInstanceTypeRequest, context: Context
    ) -> pb.InstanceType:
        now = self._clock.now()
        new = requests.new_type(request, now)
        async with self._db.transaction(ALL_TENANTS) as conn:
            stored = await mutations.create_type(conn, request_context.current(), new, now)
        request_context.created()
        return convert.instance_type(stored)

    async def GetInstanceType(
        self, request: pb.GetInstanceTypeRequest, context: Context
    ) -> pb.InstanceType:
        type_id = _id(request.id)
        async with self._db.connection(ALL_TENANTS) as conn:
            return convert.instance_type(_found(await store.find_type(conn, type_id)))

    async def UpdateInstanceType(
        self, request: pb.UpdateInstanceTypeRequest, context: Context
    ) -> pb.InstanceType:
        type_id = _id(request.id)
        apply = requests.changed_type(request)
        async with self._db.transaction(ALL_TENANTS) as conn:
            before = _found(await store.lock_type(conn, type_id))
            after = await mutations.update_type(
                conn, request_context.current(), before, apply(before), self._clock.now()
            )
        return convert.instance_type(after)

    async def DeleteInstanceType(
        self, request: pb.DeleteInstanceTypeRequest, context: Context
    ) -> pb.DeleteInstanceTypeResponse:
        type_id = _id(request.id)
        async with self._db.transaction(ALL_TENANTS) as conn:
            present = _found(await store.lock_type_to_delete(conn, type_id))
            await mutations.delete_type(conn, request_context.current(), present, self._clock.now())
        return pb.DeleteInstanceTypeResponse(
            status="deleted", message=f"instance type {present.instance_type} deleted"
        )

    async def AssociateRegions(
        self, request: pb.AssociateRegionsRequest, context: Context
    ) -> pb.AssociateRegionsResponse:
        type_id = _id(request.id)
        codes, terms = requests.region_codes(request), requests.terms(request)
        async with self._db.transaction(ALL_TENANTS) as conn:
            present = _found(await store.lock_type_shared(conn, type_id))
            held = await associations_store.lock_regions_shared(conn, set(codes))
            _check_codes(codes, held, present.provider)
            tally = await mutations.associate(
                conn,
                request_context.current(),
                present,
                list(held.values()),
                terms,
                self._clock.now(),
            )
        return pb.AssociateRegionsResponse(
            status="success",
            message=f"{tally.inserted} associations added, {tally.updated} updated",
            inserted=tally.inserted,
            updated=tally.updated,
        )

    async def GetInstanceTypePricing(
        self, request: pb.GetInstanceTypePricingRequest, context: Context
    ) -> pb.GetInstanceTypePricingResponse:
        type_id = _id(request.id)
        async with self._db.connection(ALL_TENANTS) as conn:
            present = _found(await store.find_type(conn, type_id))
            places = await associations_store.list_regional_offers(conn, type_id)
        return convert.pricing(present, places)

    async def _list(self, request: pb.ListInstanceTypesRequest) -> pb.ListInstanceTypesResponse:
        provider = wire.optional_one_of(request, "provider", rules.PROVIDERS)
        region = wire.optional_text(request, "region", maximum=50)
        available = wire.optional(request, "available")
        page = paging.read(
            request,
            self._tokens,
            default=1000,
            maximum=1000,
            filters={"provider": provider, "region": region, "available": available},
        )
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await store.list_types(
                conn, page, provider=provider, region=region, available=available
            )
        types, pagination = paging.answer(page, found, self._tokens, store.type_key)
        return pb.ListInstanceTypesResponse(
            data=[convert.instance_type(listed.type, offered=listed.offered) for listed in types],
            pagination=pagination,
        )


def _id(text: str) -> int:
    return wire.positive_int(text, "id", "instance type ID")


def _found(present: store.InstanceType | None) -> store.InstanceType:
    if present is None:
        raise InstanceTypeNotFound("no such instance type")
    return present


def _check_codes(
    codes: Sequence[str], held: Mapping[str, associations_store.LockedRegion], provider: str
) -> None:
    faults = []
    for i, code in enumerate(codes):
        if code not in held:
            faults.append(Violation(f"region_codes[{i}]", f"no region has code {code}"))
        elif held[code].provider != provider:
            faults.append(
                Violation(f"region_codes[{i}]", f"{code} is a region of {held[code].provider}")
            )
    if faults:
        raise Semantic(
            f"{len(faults)} region codes are unknown or another provider's", details=faults
        )
