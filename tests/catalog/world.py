"""Calls of the catalogue, and instances that stand in its way."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from spotplane.v1 import (
    instance_type_pb2,
    instance_type_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
)
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn

from tests.support.plane import ADMIN, Plane

_AGENT = """
    INSERT INTO agents (tenant_id, id, logical_agent_id, status, created_at, updated_at)
    VALUES ($1, $2, $3, 'online', now(), now())
"""
_INSTANCE = """
    INSERT INTO instances (tenant_id, id, agent_id, status, instance_type, region, az, mode,
                           region_id, instance_type_id, launched_at, active_at, updated_at)
    VALUES ($1, $2, $3, $4, 'g5.xlarge', 'us-east-1', 'us-east-1a', 'spot', $5, $6, $7, $8, now())
"""
_NODE = """
    INSERT INTO nodes (id, cluster_name, tenant_id, provider, model_id, status, health_score,
                       created_at, updated_at)
    VALUES ($1, $2, $3, 'on-prem', $4, $5, $6, now(), now())
"""
_AUDIT = """
    SELECT actor_type, actor_name, action, resource_type, resource_id, before, after, correlation_id
      FROM audit_logs
     WHERE resource_type <> 'admin_credential'
     ORDER BY occurred_at, id
"""
_EVENTS = r"""
    SELECT event_type, aggregate_id, data
      FROM outbox_events
     WHERE event_type ~ '^(region|instance_type|model)\.'
     ORDER BY seq
"""
_HISTORY = "SELECT prices FROM price_history WHERE ref_id = $1 ORDER BY valid_from"


class Catalog:
    """The three services, called as an administrator."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.regions = plane.stub(region_pb2_grpc.RegionServiceStub)
        self.types = plane.stub(instance_type_pb2_grpc.InstanceTypeServiceStub)
        self.models = plane.stub(model_pb2_grpc.ModelServiceStub)

    async def region(self, code: str = "us-east-1", **members: Any) -> region_pb2.Region:
        """Create a region."""
        request = region_pb2.CreateRegionRequest(
            **({"code": code, "name": code, "provider": "aws"} | members)
        )
        region: region_pb2.Region = await self.regions.CreateRegion(request, metadata=ADMIN)
        return region

    async def change_region(self, region_id: str, **members: Any) -> region_pb2.Region:
        """Update a region."""
        request = region_pb2.UpdateRegionRequest(id=region_id, **members)
        region: region_pb2.Region = await self.regions.UpdateRegion(request, metadata=ADMIN)
        return region

    async def get_region(self, region_id: str) -> region_pb2.Region:
        """Read a region."""
        request = region_pb2.GetRegionRequest(id=region_id)
        region: region_pb2.Region = await self.regions.GetRegion(request, metadata=ADMIN)
        return region

    async def delete_region(self, region_id: str) -> region_pb2.DeleteRegionResponse:
        """Delete a region."""
        request = region_pb2.DeleteRegionRequest(id=region_id)
        answer: region_pb2.DeleteRegionResponse = await self.regions.DeleteRegion(
            request, metadata=ADMIN
        )
        return answer

    async def availability(self, region_id: str) -> region_pb2.GetRegionAvailabilityResponse:
        """Read what a region offers."""
        request = region_pb2.GetRegionAvailabilityRequest(id=region_id)
        answer: region_pb2.GetRegionAvailabilityResponse = await self.regions.GetRegionAvailability(
            request, metadata=ADMIN
        )
        return answer

    async def type(self, name: str = "g5.xlarge", **members: Any) -> instance_type_pb2.InstanceType:
        """Create an instance type."""
        defaults: dict[str, Any] = {
            "provider": "aws",
            "instance_type": name,
            "gpu_model": "NVIDIA A10G",
            "vcpu_count": 4,
            "memory_gb": 16,
            "gpu_count": 1,
            "gpu_memory_gb": 24,
        }
        request = instance_type_pb2.CreateInstanceTypeRequest(**(defaults | members))
        made: instance_type_pb2.InstanceType = await self.types.CreateInstanceType(
            request, metadata=ADMIN
        )
        return made

    async def change_type(self, type_id: object, **members: Any) -> instance_type_pb2.InstanceType:
        """Update an instance type."""
        request = instance_type_pb2.UpdateInstanceTypeRequest(id=str(type_id), **members)
        made: instance_type_pb2.InstanceType = await self.types.UpdateInstanceType(
            request, metadata=ADMIN
        )
        return made

    async def get_type(self, type_id: object) -> instance_type_pb2.InstanceType:
        """Read an instance type."""
        request = instance_type_pb2.GetInstanceTypeRequest(id=str(type_id))
        found: instance_type_pb2.InstanceType = await self.types.GetInstanceType(
            request, metadata=ADMIN
        )
        return found

    async def delete_type(self, type_id: object) -> instance_type_pb2.DeleteInstanceTypeResponse:
        """Delete an instance type."""
        request = instance_type_pb2.DeleteInstanceTypeRequest(id=str(type_id))
        answer: instance_type_pb2.DeleteInstanceTypeResponse = await self.types.DeleteInstanceType(
            request, metadata=ADMIN
        )
        return answer

    async def associate(
        self, type_id: object, *codes: str, **terms: Any
    ) -> instance_type_pb2.AssociateRegionsResponse:
        """Say where a type is sold."""
        request = instance_type_pb2.AssociateRegionsRequest(
            id=str(type_id), region_codes=codes, **terms
        )
        answer: instance_type_pb2.AssociateRegionsResponse = await self.types.AssociateRegions(
            request, metadata=ADMIN
        )
        return answer

    async def pricing(self, type_id: object) -> instance_type_pb2.GetInstanceTypePricingResponse:
        """Compare a type's prices."""
        request = instance_type_pb2.GetInstanceTypePricingRequest(id=str(type_id))
        answer: instance_type_pb2.GetInstanceTypePricingResponse = (
            await self.types.GetInstanceTypePricing(request, metadata=ADMIN)
        )
        return answer

    async def model(self, name: str = "llama-3-8b", **members: Any) -> model_pb2.Model:
        """Create a model."""
        defaults: dict[str, Any] = {
            "name": name,
            "family": "Llama",
            "type": "chat",
            "context_length": 8192,
            "vram_required_gb": 16,
        }
        request = model_pb2.CreateModelRequest(**(defaults | members))
        model: model_pb2.Model = await self.models.CreateModel(request, metadata=ADMIN)
        return model

    async def get_model(self, model_id: str) -> model_pb2.Model:
        """Read a model."""
        request = model_pb2.GetModelRequest(id=model_id)
        model: model_pb2.Model = await self.models.GetModel(request, metadata=ADMIN)
        return model

    async def change_model(self, model_id: str, **members: Any) -> model_pb2.Model:
        """Update a model."""
        request = model_pb2.UpdateModelRequest(id=model_id, **members)
        model: model_pb2.Model = await self.models.UpdateModel(request, metadata=ADMIN)
        return model

    async def delete_model(self, model_id: str) -> model_pb2.DeleteModelResponse:
        """Delete a model."""
        request = model_pb2.DeleteModelRequest(id=model_id)
        answer: model_pb2.DeleteModelResponse = await self.models.DeleteModel(
            request, metadata=ADMIN
        )
        return answer

    async def search(self, **query: Any) -> model_pb2.SearchModelsResponse:
        """Look for models."""
        request = model_pb2.SearchModelsRequest(**query)
        answer: model_pb2.SearchModelsResponse = await self.models.SearchModels(
            request, metadata=ADMIN
        )
        return answer

    async def trail(self) -> tuple[list[Any], list[Any]]:
        """All audit rows and all events."""
        async with self.plane.db.connection(ALL_TENANTS) as conn:
            return await conn.fetch(_AUDIT), await conn.fetch(_EVENTS)

    async def trail_counts(self) -> tuple[Counter[str], Counter[str]]:
        """How many audit rows and events there are, by action and type."""
        audits, events = await self.trail()
        return Counter(row["action"] for row in audits), Counter(
            row["event_type"] for row in events
        )

    async def history(self, ref_id: str) -> list[dict[str, str]]:
        """All prices that something ever had, oldest first."""
        async with self.plane.db.connection(ALL_TENANTS) as conn:
            return [row["prices"] for row in await conn.fetch(_HISTORY, UUID(ref_id))]


async def put_instance(
    conn: Conn,
    tenant_id: str,
    *,
    region_id: str | None = None,
    type_id: int | None = None,
    status: str = "running_primary",
    launched_at: datetime | None = None,
    active_at: datetime | None = None,
) -> None:
    """Store an instance, on an agent of its own."""
    agent_id = uuid4()
    await conn.execute(_AGENT, UUID(tenant_id), agent_id, f"a-{agent_id}")
    await conn.execute(
        _INSTANCE,
        UUID(tenant_id),
        f"i-{agent_id}",
        agent_id,
        status,
        UUID(region_id) if region_id else None,
        type_id,
        launched_at or datetime.now(UTC),
        active_at,
    )


async def put_node(
    conn: Conn,
    model_id: str,
    *,
    tenant_id: str | None = None,
    status: str = "active",
    health: float = 90,
) -> None:
    """Store a node that serves a model, the operator's own unless a tenant is named."""
    node_id = uuid4()
    await conn.execute(
        _NODE,
        node_id,
        f"n-{node_id}",
        UUID(tenant_id) if tenant_id else None,
        UUID(model_id),
        status,
        Decimal(str(health)),
    )
