"""RegionService: create, read, update and delete regions, and their availability."""

from __future__ import annotations

from datetime import timedelta

from google.api import httpbody_pb2
from spotplane.v1 import region_pb2 as pb
from spotplane.v1 import region_pb2_grpc

from spotplane_server.catalog import associations_store, convert, mutations, requests, rules
from spotplane_server.catalog import regions_store as store
from spotplane_server.catalog.errors import RegionNotFound
from spotplane_server.config import ServerConfig
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import http_body, paging, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.rpc.interceptor import Context


class RegionService(region_pb2_grpc.RegionServiceServicer):
    """Handlers; the proto comments are their contract."""

    def __init__(
        self, db: Database, clock: Clock, tokens: paging.PageTokens, config: ServerConfig
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._config = config

    async def ListRegions(
        self, request: pb.ListRegionsRequest, context: Context
    ) -> pb.ListRegionsResponse:
        return await self._list(request)

    async def ListRegionsFlat(
        self, request: pb.ListRegionsRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        found = await self._list(request)
        return http_body.answer(found.data, found.pagination, envelope=request.envelope)

    async def CreateRegion(self, request: pb.CreateRegionRequest, context: Context) -> pb.Region:
        now = self._clock.now()
        region = requests.new_region(request, now)
        async with self._db.transaction(ALL_TENANTS) as conn:
            stored = await mutations.create_region(conn, request_context.current(), region, now)
        request_context.created()
        return convert.region(stored)

    async def GetRegion(self, request: pb.GetRegionRequest, context: Context) -> pb.Region:
        region_id = _id(request.id)
        async with self._db.connection(ALL_TENANTS) as conn:
            return convert.region(_found(await store.find_region(conn, region_id)))

    async def UpdateRegion(self, request: pb.UpdateRegionRequest, context: Context) -> pb.Region:
        region_id = _id(request.id)
        apply = requests.changed_region(request)
        async with self._db.transaction(ALL_TENANTS) as conn:
            before = _found(await store.lock_region(conn, region_id))
            # Read the time under the lock, so that price history is in the order of the updates.
            after = await mutations.update_region(
                conn, request_context.current(), before, apply(before), self._clock.now()
            )
        return convert.region(after)

    async def DeleteRegion(
        self, request: pb.DeleteRegionRequest, context: Context
    ) -> pb.DeleteRegionResponse:
        region_id = _id(request.id)
        async with self._db.transaction(ALL_TENANTS) as conn:
            region = _found(await store.lock_region_to_delete(conn, region_id))
            await mutations.delete_region(
                conn, request_context.current(), region, self._clock.now()
            )
        return pb.DeleteRegionResponse(status="deleted", message=f"region {region.code} deleted")

    async def GetRegionAvailability(
        self, request: pb.GetRegionAvailabilityRequest, context: Context
    ) -> pb.GetRegionAvailabilityResponse:
        region_id = _id(request.id)
        since = self._clock.now() - timedelta(days=self._config.launch_estimate_days)
        async with self._db.connection(ALL_TENANTS) as conn:
            region = _found(await store.find_region(conn, region_id))
            offers = await associations_store.list_offers(conn, region_id)
            current = await store.count_current(conn, region_id)
            launches = await store.estimate_launch(conn, region_id, since)
        enough = launches.samples >= self._config.launch_estimate_min_samples
        return pb.GetRegionAvailabilityResponse(
            region_id=str(region.id),
            region_code=region.code,
            region_name=region.name,
            provider=region.provider,
            status=region.status,
            available_instances=[convert.available_instance(o, region) for o in offers],
            quota_limits=_quota(region, current, self._config.region_default_max_nodes),
            estimated_launch_time_seconds=launches.median_seconds if enough else None,
            launch_samples=launches.samples,
        )

    async def _list(self, request: pb.ListRegionsRequest) -> pb.ListRegionsResponse:
        provider = wire.optional_one_of(request, "provider", rules.PROVIDERS)
        status = wire.optional_one_of(request, "status", rules.REGION_STATUSES)
        page = paging.read(
            request,
            self._tokens,
            default=1000,
            maximum=1000,
            filters={"provider": provider, "status": status},
        )
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await store.list_regions(conn, page, provider=provider, status=status)
        regions, pagination = paging.answer(page, found, self._tokens, store.region_key)
        return pb.ListRegionsResponse(data=map(convert.region, regions), pagination=pagination)


def _id(text: str) -> store.RegionId:
    return store.RegionId(wire.uuid(text, "id", "region ID"))


def _found(region: store.Region | None) -> store.Region:
    if region is None:
        raise RegionNotFound("no such region")
    return region


def _quota(
    region: store.Region, current: int, default: int
) -> pb.GetRegionAvailabilityResponse.QuotaLimits:
    most = default if region.max_nodes is None else region.max_nodes
    return pb.GetRegionAvailabilityResponse.QuotaLimits(
        max_nodes=most,
        current_nodes=current,
        available_quota=max(0, most - current),
        source="default" if region.max_nodes is None else "region",
    )
