"""ModelService."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from spotplane.v1 import model_pb2 as pb
from spotplane.v1 import model_pb2_grpc

from spotplane_server.catalog import fields, messages, writes
from spotplane_server.catalog import models_store as store
from spotplane_server.catalog.errors import ModelNotFound
from spotplane_server.kernel import calls, paging, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import EVERY_TENANT, Database
from spotplane_server.kernel.middleware import Context

SORTS: Final = ("name", "family", "created_at", "updated_at", "vram_required_gb")
ORDERS: Final = ("asc", "desc")


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Keeps the catalogue of models."""

    def __init__(self, db: Database, clock: Clock, tokens: paging.PageTokens) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.Model:
        now = self._clock.now()
        model = fields.new_model(request, now)
        async with self._db.transaction(EVERY_TENANT) as conn:
            stored = await writes.create_model(conn, calls.current(), model, now)
        calls.created()
        return messages.model(stored)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        model_id = store.ModelId(wire.uuid(request.id, "id", "model ID format"))
        async with self._db.read(EVERY_TENANT) as conn:
            model = await store.find_model(conn, model_id)
        if model is None:
            raise ModelNotFound("no such model")
        return messages.model(model)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        filters = fields.model_filters(request)
        sort_by = wire.optional_one_of(request, "sort_by", SORTS) or "name"
        order = wire.optional_one_of(request, "sort_order", ORDERS) or "asc"
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={**asdict(filters), "sort_by": sort_by, "sort_order": order},
        )
        async with self._db.read(EVERY_TENANT) as conn:
            found = await store.list_models(
                conn, page, filters, sort_by=sort_by, descending=order == "desc"
            )
        models, pagination = paging.answer(
            page, found, self._tokens, lambda listed: (listed.sort_key, listed.model.id)
        )
        return pb.ListModelsResponse(
            data=[messages.model(listed.model) for listed in models], pagination=pagination
        )
