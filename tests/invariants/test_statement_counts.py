"""A call that reads runs as many statements for a thousand rows as for a few."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import asyncpg
import grpc.aio
import pytest
from google.api import annotations_pb2
from spotplane.v1 import (
    instance_type_pb2,
    instance_type_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    usage_pb2_grpc,
)
from spotplane.v1 import usage_pb2 as pb
from spotplane_server.kernel.auth import policy

from tests.invariants import rpcs
from tests.invariants.test_foreign_tenant import estate
from tests.support.market import put_prices
from tests.support.plane import ADMIN, Plane, Tenant, running
from tests.support.statements import Statements
from tests.usage.world import World, hours, record

INSERT_SWITCH: Final = """
    INSERT INTO switches (tenant_id, id, agent_id, trigger, cause, initiated_at, created_at)
    VALUES ($1, gen_random_uuid(), $2, 'MANUAL', 'switch', now(), now())
"""
# Copies rows of every table that can be copied: of each unique index one column gets another value,
# by preference a time, an id, a number or a text; what refers to others refers to the same.
MULTIPLY: Final = """
DO $do$
DECLARE
    of record;
    kinds text[] := ARRAY['timestamp with time zone', 'uuid', 'bytea', 'bigint', 'integer', 'text'];
    changed text[];
    names text;
    values_of text;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR of IN
        SELECT c.oid, c.relname FROM pg_class c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
           AND NOT c.relispartition AND c.relname <> 'schema_migrations'
    LOOP
        SELECT array_agg(DISTINCT p.attname) INTO changed
          FROM pg_index i
         CROSS JOIN LATERAL (
               SELECT a.attname::text
                 FROM pg_attribute a
                WHERE a.attrelid = of.oid AND a.attname <> 'tenant_id'
                  AND (a.attnum = ANY(i.indkey)
                       OR 0 = ANY(i.indkey)
                          AND pg_get_indexdef(i.indexrelid) LIKE '%(' || a.attname || ')%')
                  AND NOT EXISTS (SELECT FROM pg_constraint f
                                   WHERE f.conrelid = of.oid AND f.contype = 'f'
                                     AND a.attnum = ANY(f.conkey))
                  AND format_type(a.atttypid, NULL) = ANY(kinds)
                ORDER BY array_position(kinds, format_type(a.atttypid, NULL)), a.attnum DESC
                LIMIT 1) AS p
         WHERE i.indrelid = of.oid AND i.indisunique;
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
               string_agg(format(
                   CASE WHEN a.attname = ANY(changed) THEN
                        CASE format_type(a.atttypid, NULL)
                             WHEN 'timestamp with time zone' THEN $$s.%I - n * interval '1 second'$$
                             WHEN 'uuid' THEN 'gen_random_uuid()'
                             WHEN 'bytea' THEN 'sha256(gen_random_uuid()::text::bytea)'
                             WHEN 'text' THEN $$s.%I || '-' || n$$
                             ELSE 's.%I + n * 100000'
                        END
                   ELSE 's.%I' END, a.attname), ', ' ORDER BY a.attnum)
          INTO names, values_of
          FROM pg_attribute a
         WHERE a.attrelid = of.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attidentity = '' AND a.attgenerated = '';
        BEGIN
            EXECUTE format('INSERT INTO %1$I (%2$s) SELECT %3$s '
                           'FROM (SELECT * FROM %1$I LIMIT 20) s, generate_series(1, 20) n',
                           of.relname, names, values_of);
        EXCEPTION WHEN integrity_constraint_violation THEN NULL;  -- it cannot be copied
        END;
    END LOOP;
END
$do$
"""


def reading() -> list[str]:
    """Unary methods that only read: by their route, or by their name where they have none."""
    found = []
    for name, rpc in rpcs.ALL.items():
        options: Any = rpc.method.GetOptions()
        rule = options.Extensions[annotations_pb2.http]
        named = name.split("/")[1].startswith(("List", "Get", "Search"))
        streams = rpc.method.client_streaming or rpc.method.server_streaming
        if not streams and (rule.get or (named and not rule.ByteSize())):
            found.append(name)
    return found


@dataclass
class Asker:
    """Calls methods about one tenant.

    Attributes:
        known: Ids by the field that names them; of `id`, by the service too.
        refused: Methods that were not answered, and why.
    """

    plane: Plane
    statements: Statements
    tenant: Tenant
    known: dict[str, Any]
    refused: dict[str, str] = field(default_factory=dict)

    async def ask(self, name: str) -> tuple[int, int] | None:
        """Statements that a call took and bytes of its answer; None when it is refused."""
        rpc, ticket = rpcs.ALL[name], uuid4().hex
        service = name.split("Service/", maxsplit=1)[0]
        known = self.known | {"id": self.known.get(service, self.tenant.id)}
        given = {
            item.name: known[item.name]
            for item in rpc.method.input_type.fields
            if item.name in known and not item.has_presence and not item.is_repeated
        }
        caller = ADMIN if policy.METHODS[rpc.path].admin_only else self.tenant.metadata
        call: Any = self.plane.channel.unary_unary(
            rpc.path, request_serializer=rpc.request.SerializeToString
        )
        request = rpc.request(**given)
        try:
            answer = await call(request, metadata=(*caller, ("x-request-id", ticket)))
        except grpc.aio.AioRpcError as err:
            self.refused[name] = f"{err.code().name}: {err.details()}"
            return None
        return len(self.statements.of(ticket)), len(answer)


async def some_of_everything(plane: Plane, world: World, tenant: Tenant) -> dict[str, Any]:
    """A small world, and the ids of what is in it."""
    owned = (await estate(plane, tenant)).owned
    await world.conn.execute("UPDATE replicas SET status = 'ready'")
    await world.conn.execute(INSERT_SWITCH, tenant.id, owned["agent_id"])
    await put_prices(plane, on_demand=1_000_000_000)
    model, region = await world.model("llama-3-70b"), await world.region("eu-west")
    now = plane.server.kernel.clock.now()
    records = [
        record(
            None,
            now - hours(n),
            model="llama-3-70b",
            region_code="eu-west",
            api_key_id=tenant.key_id,
            tenant_id=tenant.id,
        )
        for n in range(3)
    ]
    await plane.stub(usage_pb2_grpc.UsageServiceStub).IngestUsageBatch(
        pb.IngestUsageBatchRequest(records=records), metadata=ADMIN
    )
    kind = await plane.stub(instance_type_pb2_grpc.InstanceTypeServiceStub).CreateInstanceType(
        instance_type_pb2.CreateInstanceTypeRequest(
            provider="aws",
            instance_type="g5.xlarge",
            gpu_model="A10G",
            vcpu_count=4,
            memory_gb=16,
            gpu_count=1,
            gpu_memory_gb=24,
        ),
        metadata=ADMIN,
    )
    await plane.stub(instance_type_pb2_grpc.InstanceTypeServiceStub).AssociateRegions(
        instance_type_pb2.AssociateRegionsRequest(id=str(kind.id), region_codes=["eu-west"]),
        metadata=ADMIN,
    )
    node = node_pb2.RegisterNodeRequest(
        provider="aws", endpoint_url="https://10.0.0.1:8000", cluster_name="cluster"
    )
    registered = await plane.stub(node_pb2_grpc.NodeServiceStub).RegisterNode(node, metadata=ADMIN)
    return owned | {
        "cluster_name": "cluster",
        "Node": registered.node_id,
        "tenant_id": tenant.id,
        "client_id": tenant.id,
        "instance_id": owned["hello"]["instance_id"],
        "model": "llama-3-70b",
        "Region": str(region),
        "Model": str(model),
        "InstanceType": str(kind.id),
    }


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    """A connection of the schema's owner."""
    conn = await asyncpg.connect(database_url)
    yield World(conn)
    await conn.close()


async def test_the_number_of_statements_does_not_depend_on_rows(
    database_url: str, world: World
) -> None:
    """Of all that is read, in a world of few rows and in the same with twenty times as many."""
    statements = Statements()
    async with running(database_url, on_statement=statements, analytics_cache_mib=0) as plane:
        tenant = await plane.tenant()
        known = await some_of_everything(plane, world, tenant)
        asker = Asker(plane, statements, tenant, known)
        few: dict[str, tuple[int, int]] = {}
        for name in reading():
            await asker.ask(name)  # what is remembered from the first time on is not counted
            told = await asker.ask(name)
            if told is not None:
                few[name] = told

        await world.conn.execute(MULTIPLY)

        many = {name: await asker.ask(name) for name in few}
    grown = [name for name, told in many.items() if told and told[1] > 2 * few[name][1]]

    assert {n: of and of[0] for n, of in many.items()} == {n: of[0] for n, of in few.items()}
    # Enough of them were answered, and told of more, to mean something.
    assert len(few) > 85, asker.refused
    assert len(grown) > 30, sorted(many)
