"""Export of a tenant as a ZIP archive, streamed from one snapshot in constant memory."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from spotplane_server import audit
from spotplane_server.kernel import request_context
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.tenants import store

BATCH_ROWS: Final = 500
CHUNK_BYTES: Final = 64 * 1024
# Each export holds a connection until its client has read it; the others stay available.
MAX_AT_ONCE: Final = 2

# One fetch may scan a large table first, and the client's download speed limits the transfer. The
# transaction writes nothing, so that it blocks no other.
FETCH_SECONDS: Final = 300.0
SET_TIMEOUTS: Final = """
    SELECT set_config(name, '5min', true)
      FROM unnest(ARRAY['statement_timeout', 'idle_in_transaction_session_timeout']) AS name
"""
LIFT_TRANSACTION_TIMEOUT: Final = """
    SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'
"""

EXPORT_TENANT: Final = """
    SELECT id, name, email, status, billing_plan, metadata, region_preferences,
           billing_customer_id, reserved_capacity_tokens_per_sec, suspension_id, suspension_reason,
           suspension_notes, suspended_at, created_at, updated_at, deleted_at
      FROM tenants
     WHERE id = $1
"""

EXPORT_ENVIRONMENTS: Final = """
    SELECT tenant_id, id, name, region_code, model_list, key_label, requests_per_minute,
           quota_tokens_per_minute, quota_tokens_per_day, concurrency_limit, status, created_at
      FROM environments
     WHERE tenant_id = $1
     ORDER BY name
"""

EXPORT_API_KEYS: Final = """
    SELECT tenant_id, id, environment_id, key_prefix, user_id, name, description, role,
           rate_limit_rpm, rate_limit_tpm, concurrency_limit, status, suspension_id, rotated_from,
           replaced_by, metadata, last_used_at, expires_at, revoked_at, created_at, updated_at
      FROM api_keys
     WHERE tenant_id = $1
     ORDER BY created_at DESC, id
"""

EXPORT_USAGE_RECORDS: Final = """
    SELECT tenant_id, "timestamp", request_id, environment_id, api_key_id, model_id, region_id,
           node_id, prompt_tokens, completion_tokens, cached_tokens, total_tokens, latency_ms,
           status_code, outcome, price_input, price_cached, price_output, region_multiplier,
           cost_nanos, metadata, ingested_at
      FROM usage_records
     WHERE tenant_id = $1
     ORDER BY "timestamp" DESC
"""

EXPORT_USAGE_ROLLUP_HOURLY: Final = """
    SELECT tenant_id, starts_at AS hour, environment_id, model_id, api_key_id, region_id,
           requests, successes, failures, prompt_tokens, completion_tokens, total_tokens,
           cached_tokens, cost_nanos, latency_count, latency_sum, latency_min, latency_max,
           first_at, last_at
      FROM usage_rollups
     WHERE tenant_id = $1 AND rollup = 'hour_all'
"""

EXPORT_AUDIT_LOGS: Final = """
    SELECT occurred_at, id, actor_type, actor_id, actor_name, action, resource_type, resource_id,
           tenant_id, before, after, result, correlation_id, ip, user_agent
      FROM audit_logs
     WHERE tenant_id = $1
     ORDER BY occurred_at DESC
"""

EXPORT_OUTBOX_EVENTS: Final = """
    SELECT occurred_at, seq, id, event_type, tenant_id, aggregate_id, data
      FROM outbox_events
     WHERE tenant_id = $1
"""

# Nodes, and instances of agents in the form of nodes with their additional columns.
EXPORT_NODES: Final = """
    SELECT n.tenant_id, n.id, n.cluster_name, n.kind, n.provider, n.region, n.instance_type,
           n.model, n.endpoint_url, n.internal_ip, n.gpu_type, n.vram_total_gb, n.spot_instance,
           n.spot_price, n.status, n.health_score, n.last_heartbeat_at, n.termination_at,
           n.launched_at, n.active_at, n.terminated_at, n.status_message, n.created_at,
           i.agent_id, i.az, i.mode, i.pool_id, i.hostname, i.image_id, i.public_ip,
           i.terminate_consent
      FROM nodes_and_instances n
      LEFT JOIN instances i
        ON n.kind = 'instance' AND i.tenant_id = n.tenant_id AND i.id = n.cluster_name
     WHERE n.tenant_id = $1
     ORDER BY n.created_at, n.id
"""

FILES: Final[dict[str, str]] = {
    "tenant": EXPORT_TENANT,
    "environments": EXPORT_ENVIRONMENTS,
    "api_keys": EXPORT_API_KEYS,
    "usage_records": EXPORT_USAGE_RECORDS,
    "usage_rollup_hourly": EXPORT_USAGE_ROLLUP_HOURLY,
    "audit_logs": EXPORT_AUDIT_LOGS,
    "outbox_events": EXPORT_OUTBOX_EVENTS,
    "nodes": EXPORT_NODES,
}

_Format = Callable[[Sequence[str], Sequence[Any]], bytes]


class Exporter:
    """Streams archives, with a limit on concurrent exports."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def archive(
        self, tenant_id: TenantId, form: str, now: datetime
    ) -> AsyncGenerator[bytes, None]:
        """Yield the archive's bytes.

        After a failure the archive has no central directory, so that clients
        detect that it is incomplete.

        Raises:
            TenantNotFound: There is no such tenant.
        """
        async with self._slots:
            await self._record(tenant_id, form, now)
            sink, files = _Sink(), {}
            archive = zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED)
            async with self._db.transaction(
                tenant_id, isolation="repeatable_read", readonly=True
            ) as conn:
                await conn.execute(SET_TIMEOUTS)
                await conn.execute(LIFT_TRANSACTION_TIMEOUT)
                for name, statement in FILES.items():
                    file = f"{name}.{form}"
                    rows, digest = 0, hashlib.sha256()
                    with archive.open(_entry(file, now), "w", force_zip64=True) as entry:
                        async for count, block in _blocks(conn, statement, tenant_id, form):
                            rows += count
                            digest.update(block)
                            await asyncio.to_thread(entry.write, block)
                            if len(sink.pending) >= CHUNK_BYTES:
                                yield sink.take()
                    files[file] = {"rows": rows, "sha256": digest.hexdigest()}
            archive.writestr(_entry("manifest.json", now), _manifest(tenant_id, files, now))
            archive.close()
            yield sink.take()

    async def _record(self, tenant_id: TenantId, form: str, now: datetime) -> None:
        async with self._db.transaction(tenant_id) as conn:
            await store.get_tenant(conn, tenant_id)
            change = audit.Change(
                "tenant.export", "tenant", str(tenant_id), tenant_id, after={"format": form}
            )
            await audit.record(conn, request_context.current(), change, now)


class _Sink:
    """Write-only file that buffers the archive until `take`."""

    def __init__(self) -> None:
        self.pending = bytearray()

    def write(self, data: bytes, /) -> int:
        self.pending += data
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is no buffer below."""

    def close(self) -> None:
        """Do nothing: there is no open file."""

    def take(self) -> bytes:
        taken, self.pending = bytes(self.pending), bytearray()
        return taken


async def _blocks(
    conn: Conn, statement: str, tenant_id: TenantId, form: str
) -> AsyncIterator[tuple[int, bytes]]:
    """Yield a file's content in blocks with their number of rows."""
    prepared = await conn.prepare(statement)
    columns = [attribute.name for attribute in prepared.get_attributes()]
    write = _FORMATS[form]
    if form == "csv":
        yield 0, _csv_line(columns, columns)
    cursor = await prepared.cursor(tenant_id, timeout=FETCH_SECONDS)
    while rows := await cursor.fetch(BATCH_ROWS, timeout=FETCH_SECONDS):
        yield len(rows), b"".join(write(columns, tuple(row)) for row in rows)


def _ndjson_line(columns: Sequence[str], values: Sequence[Any]) -> bytes:
    # Exact prices are text, because JSON numbers may lose precision.
    return orjson.dumps(
        dict(zip(columns, values, strict=True)),
        default=str,
        option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE,
    )


def _csv_line(_columns: Sequence[str], values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([_cell(value) for value in values])
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return str(value)


_FORMATS: Final[dict[str, _Format]] = {"ndjson": _ndjson_line, "csv": _csv_line}


def _entry(name: str, now: datetime) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, now.timetuple()[:6])
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _manifest(tenant_id: TenantId, files: dict[str, Any], now: datetime) -> bytes:
    body = {"tenant_id": tenant_id, "exported_at": now, "files": files}
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z)
