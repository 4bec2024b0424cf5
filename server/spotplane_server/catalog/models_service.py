"""ModelService: create, read, update, delete and search models, and their endpoints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final, TypeVar

from spotplane.v1 import model_pb2 as pb
from spotplane.v1 import model_pb2_grpc

from spotplane_server.catalog import convert, model_queries, mutations, requests, rules
from spotplane_server.catalog import models_store as store
from spotplane_server.catalog.errors import ModelNotFound
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.rpc.interceptor import Context

T = TypeVar("T")

SORTS: Final = ("name", "family", "created_at", "updated_at", "vram_required_gb")
ORDERS: Final = ("asc", "desc")


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Handlers; the proto comments are their contract."""

    def __init__(self, db: Database, clock: Clock, tokens: paging.PageTokens) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.Model:
        now = self._clock.now()
        model = requests.new_model(request, now)
        async with self._db.transaction(ALL_TENANTS) as conn:
            stored = await mutations.create_model(conn, request_context.current(), model, now)
        request_context.created()
        return convert.model(stored)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        model_id = _id(request.id)
        async with self._db.connection(ALL_TENANTS) as conn:
            model = await store.find_model(conn, model_id)
        return convert.model(_found(model))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        filters = requests.model_filters(request)
        sort_by = wire.optional_one_of(request, "sort_by", SORTS) or "name"
        order = wire.optional_one_of(request, "sort_order", ORDERS) or "asc"
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={**asdict(filters), "sort_by": sort_by, "sort_order": order},
        )
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await store.list_models(
                conn, page, filters, sort_by=sort_by, descending=order == "desc"
            )
        models, pagination = paging.answer(
            page, found, self._tokens, lambda listed: (listed.sort_key, listed.model.id)
        )
        return pb.ListModelsResponse(
            data=[convert.model(listed.model) for listed in models], pagination=pagination
        )

    async def SearchModels(
        self, request: pb.SearchModelsRequest, context: Context
    ) -> pb.SearchModelsResponse:
        search = requests.model_search(request)
        page = paging.read(request, self._tokens, default=50, maximum=100, filters=asdict(search))
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await model_queries.search_models(conn, page, search)
        models, pagination = paging.answer(
            page, found, self._tokens, lambda model: (model.name, model.id)
        )
        return pb.SearchModelsResponse(
            data=map(convert.model, models), pagination=pagination, query=search.text or ""
        )

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.Model:
        model_id = _id(request.id)
        apply = requests.changed_model(request)
        async with self._db.transaction(ALL_TENANTS) as conn:
            before = _found(await store.lock_model(conn, model_id))
            # Read the time under the lock, so that price history is in the order of the updates.
            after = await mutations.update_model(
                conn, request_context.current(), before, apply(before), self._clock.now()
            )
        return convert.model(after)

    async def DeleteModel(
        self, request: pb.DeleteModelRequest, context: Context
    ) -> pb.DeleteModelResponse:
        model_id = _id(request.id)
        async with self._db.transaction(ALL_TENANTS) as conn:
            model = _found(await store.lock_model_to_delete(conn, model_id))
            await mutations.delete_model(conn, request_context.current(), model, self._clock.now())
        request_context.no_content()
        return pb.DeleteModelResponse()

    async def ListLaunchableModels(
        self, request: pb.ListLaunchableModelsRequest, context: Context
    ) -> pb.ListLaunchableModelsResponse:
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await model_queries.list_launchable_models(conn)
        return pb.ListLaunchableModelsResponse(
            models=map(convert.launchable_model, found), count=len(found)
        )

    async def ListPublicModels(
        self, request: pb.ListPublicModelsRequest, context: Context
    ) -> pb.ListPublicModelsResponse:
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await model_queries.list_public_models(conn)
        return pb.ListPublicModelsResponse(object="list", data=map(convert.public_model, found))

    async def GetPublicModel(
        self, request: pb.GetPublicModelRequest, context: Context
    ) -> pb.PublicModel:
        name = _name(request.model)
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await model_queries.find_public_model(conn, name)
        return convert.public_model(_found(found))

    async def ListEndpoints(
        self, request: pb.ListEndpointsRequest, context: Context
    ) -> pb.ListEndpointsResponse:
        tenant_id = request_context.current().caller.tenant_id
        kind = wire.optional_one_of(request, "type", rules.MODEL_TYPES)
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await model_queries.list_endpoints(conn, tenant_id, kind=kind)
        return pb.ListEndpointsResponse(data=map(convert.endpoint, found))

    async def GetEndpoint(self, request: pb.GetEndpointRequest, context: Context) -> pb.Endpoint:
        tenant_id, name = request_context.current().caller.tenant_id, _name(request.model)
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await model_queries.list_endpoints(conn, tenant_id, name=name)
        return convert.endpoint(_found(found[0] if found else None))


def _id(text: str) -> store.ModelId:
    return store.ModelId(wire.uuid(text, "id", "model ID format"))


def _name(text: str) -> str:
    return wire.text(text, "model", maximum=255, required=True)


def _found(model: T | None) -> T:
    if model is None:
        raise ModelNotFound("no such model")
    return model
