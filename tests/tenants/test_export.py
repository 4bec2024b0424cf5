"""The export: whole, true to its manifest, without secrets, and broken when it fails."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc.aio
import orjson
import pytest
from spotplane.v1 import tenant_pb2, tenant_pb2_grpc
from spotplane_server.kernel.auth import secrets

from tests.invariants.processes import server_process
from tests.support.plane import ADMIN, Plane, refused
from tests.tenants.api import admin, rows

INSERT_USAGE = """
    INSERT INTO usage_records (tenant_id, "timestamp", request_id, prompt_tokens, completion_tokens,
                               cached_tokens, total_tokens, outcome, price_input, cost_nanos,
                               metadata, ingested_at)
    SELECT $1, now(), gen_random_uuid()::text, 1, 2, 0, 3, 'success', 0.04, 40,
           jsonb_build_object('noise', gen_random_uuid()::text), now()
      FROM generate_series(1, $2)
"""

TABLES = {
    "tenant": "tenants WHERE id",
    "environments": "environments WHERE tenant_id",
    "api_keys": "api_keys WHERE tenant_id",
    "usage_records": "usage_records WHERE tenant_id",
    "usage_rollup_hourly": "usage_rollups WHERE rollup = 'hour_all' AND tenant_id",
    "audit_logs": "audit_logs WHERE tenant_id",
    "outbox_events": "outbox_events WHERE tenant_id",
    "nodes": "nodes_and_instances WHERE tenant_id",
}


async def exported(plane: Plane, tenant_id: str, **fields: Any) -> zipfile.ZipFile:
    """A tenant's archive, read to its end."""
    data = b"".join(
        [part.data async for part in admin(plane)("ExportTenant", id=tenant_id, **fields)]
    )
    return zipfile.ZipFile(io.BytesIO(data))


@pytest.mark.parametrize("form", ["ndjson", "csv"])
async def test_the_manifest_agrees_with_the_files_and_the_database(plane: Plane, form: str) -> None:
    """Counts and hashes of every file, and of this tenant's rows only."""
    tenant, other = await plane.tenant(), await plane.tenant()
    for owner, count in ((tenant, 1201), (other, 7)):
        await rows(plane, INSERT_USAGE, owner.id, count)

    archive = await exported(plane, tenant.id, format=form)

    assert archive.testzip() is None
    manifest = orjson.loads(archive.read("manifest.json"))
    assert set(archive.namelist()) == {*(f"{name}.{form}" for name in TABLES), "manifest.json"}
    for name, table in TABLES.items():
        data = archive.read(f"{name}.{form}")
        said = manifest["files"][f"{name}.{form}"]
        text = io.StringIO(data.decode(), newline="")
        items = list(csv.DictReader(text)) if form == "csv" else data.splitlines()
        [there] = await rows(plane, f"SELECT count(*) FROM {table} = $1", tenant.id)  # noqa: S608
        assert said == {"rows": len(items), "sha256": hashlib.sha256(data).hexdigest()}
        assert len(items) == there["count"], name
    assert other.id.encode() not in b"".join(map(archive.read, archive.namelist()))


async def test_rows_come_with_their_types_and_without_secrets(plane: Plane) -> None:
    """Instants end in Z, exact prices are text, and neither key nor hash is anywhere."""
    tenant = await plane.tenant(description='quoted "text", with\nlines')
    await rows(plane, INSERT_USAGE, tenant.id, 1)

    archive = await exported(plane, tenant.id)
    table = await exported(plane, tenant.id, format="csv")

    usage = orjson.loads(archive.read("usage_records.ndjson"))
    assert (usage["price_input"], usage["cost_nanos"]) == ("0.040000", 40)
    assert usage["timestamp"].endswith("Z")
    key = orjson.loads(archive.read("api_keys.ndjson"))
    [same] = csv.DictReader(io.StringIO(table.read("api_keys.csv").decode(), newline=""))
    assert key["description"] == same["description"] == 'quoted "text", with\nlines'
    assert (key["rate_limit_tpm"], same["rate_limit_tpm"]) == (None, "")
    assert "key_hash" not in key
    for source in (archive, table):
        whole = b"".join(map(source.read, source.namelist()))
        assert tenant.key.encode() not in whole
        assert secrets.hash_of(tenant.key).hex().encode() not in whole


async def test_everything_is_of_one_instant(plane: Plane) -> None:
    tenant = await plane.tenant()
    await rows(plane, INSERT_USAGE, tenant.id, 20_000)
    parts = aiter(admin(plane)("ExportTenant", id=tenant.id))
    received = (await anext(parts)).data

    await rows(plane, INSERT_USAGE, tenant.id, 5)
    await admin(plane)("UpdateTenant", id=tenant.id, name="Later")
    async for part in parts:
        received += part.data

    archive = zipfile.ZipFile(io.BytesIO(received))
    files = orjson.loads(archive.read("manifest.json"))["files"]
    assert files["usage_records.ndjson"]["rows"] == 20_000
    assert orjson.loads(archive.read("tenant.ndjson"))["name"] == "Test"
    assert b"tenant.update" not in archive.read("audit_logs.ndjson")


async def test_server_holds_a_small_part_of_an_archive_at_a_time(database_url: str) -> None:
    """Forty megabytes of records pass through, and the process grows by a fraction of them."""
    async with server_process(database_url) as server:
        stub = tenant_pb2_grpc.TenantServiceStub(server.channel)
        tenant = await stub.CreateTenant(
            tenant_pb2.CreateTenantRequest(name="Large", email="large@example.com"), metadata=ADMIN
        )
        conn = await asyncpg.connect(database_url)
        await conn.execute(INSERT_USAGE, tenant.id, 80_000)
        await conn.close()
        request = tenant_pb2.ExportTenantRequest(id=str(uuid4()))
        async with refused("TENANT_NOT_FOUND"):  # what a first call brings into memory is there
            await anext(aiter(stub.ExportTenant(request, metadata=ADMIN)))
        before, archive = _peak_bytes(server.process.pid), io.BytesIO()

        request = tenant_pb2.ExportTenantRequest(id=tenant.id)
        async for part in stub.ExportTenant(request, metadata=ADMIN):
            archive.write(part.data)

        grown = _peak_bytes(server.process.pid) - before
    size = zipfile.ZipFile(archive).getinfo("usage_records.ndjson").file_size
    assert size > 40_000_000
    assert grown < size / 3, grown


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def test_suspended_and_deleted_tenants_are_exported_and_every_export_is_audited(
    plane: Plane,
) -> None:
    """An unknown tenant, a bad id and an unknown format are refused."""
    api, tenant = admin(plane), await plane.tenant()
    await api("SuspendTenant", id=tenant.id)
    await exported(plane, tenant.id)
    await api("DeleteTenant", id=tenant.id)

    archive = await exported(plane, tenant.id)

    assert orjson.loads(archive.read("tenant.ndjson"))["status"] == "deleted"
    found = await rows(plane, "SELECT FROM audit_logs WHERE action = 'tenant.export'")
    assert len(found) == 2
    async with refused("TENANT_NOT_FOUND"):
        await exported(plane, str(uuid4()))
    async with refused("INVALID_ID", field="id"):
        await exported(plane, "7")
    async with refused("UNKNOWN_ENUM", field="format"):
        await exported(plane, tenant.id, format="xml")


async def test_an_export_that_fails_midway_is_broken_off_without_its_directory(
    plane: Plane,
) -> None:
    tenant = await plane.tenant()
    await rows(plane, INSERT_USAGE, tenant.id, 100_000)
    parts = aiter(admin(plane)("ExportTenant", id=tenant.id))
    received = (await anext(parts)).data

    async def drain() -> None:
        nonlocal received
        async for part in parts:
            received += part.data

    await rows(
        plane,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drain()

    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(received))


async def test_clients_that_leave_do_not_block_later_exports(plane: Plane) -> None:
    tenant = await plane.tenant()
    await rows(plane, INSERT_USAGE, tenant.id, 50_000)
    started = datetime.now(UTC)
    for _ in range(4):
        call = admin(plane)("ExportTenant", id=tenant.id)
        await call.read()
        call.cancel()

    archive = await exported(plane, tenant.id)

    assert archive.testzip() is None
    assert orjson.loads(archive.read("manifest.json"))["exported_at"] >= started.isoformat()
