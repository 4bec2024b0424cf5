"""How long statements take is told by name."""

from __future__ import annotations

from prometheus_client import REGISTRY
from spotplane.v1 import usage_pb2, usage_pb2_grpc

from tests.support.plane import Plane


def count(query: str) -> float:
    """How many of them were timed."""
    return REGISTRY.get_sample_value("db_query_duration_seconds_count", {"query": query}) or 0.0


async def test_statement_is_timed_under_the_name_of_its_constant(plane: Plane) -> None:
    """So whoever is paged finds it; what has no name is told together."""
    tenant = await plane.tenant()
    before, others = count("usage.rollup_queries.SUM_KEYS"), count("other")

    await plane.stub(usage_pb2_grpc.UsageServiceStub).ListUsageByKey(
        usage_pb2.ListUsageByKeyRequest(), metadata=tenant.metadata
    )

    assert count("usage.rollup_queries.SUM_KEYS") == before + 1
    assert count("other") > others
