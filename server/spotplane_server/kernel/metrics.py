"""Prometheus metrics of the process; labels are bounded, never a tenant, key or request id."""

from __future__ import annotations

from functools import cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
)

RPCS: Final = Counter(
    "grpc_server_handled", "RPCs answered, by outcome.", ["service", "method", "code"]
)
RPC_SECONDS: Final = Histogram(
    "grpc_server_handling_seconds",
    "Time from request to answer; unary methods only.",
    ["service", "method"],
    buckets=_SECONDS,
)
ACTIVE: Final = Gauge("active_connections", "Open calls.", ["door"])
AUTH: Final = Counter("auth_attempts", "Credentials checked.", ["kind", "result"])
AUTH_CACHE: Final = Counter(
    "auth_cache", "Credentials proven from memory (hit) or looked up (miss).", ["result"]
)
LIMITED: Final = Counter("rate_limit_rejections", "Calls refused for a budget.", ["layer"])
POOL: Final = Gauge("db_pool_connections", "Connections to PostgreSQL.", ["state"])
QUERY_SECONDS: Final = Histogram(
    "db_query_duration_seconds",
    "Time from sending a statement to its whole answer, by the constant that holds it.",
    ["query"],
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10),
)
DEPENDENCY_UP: Final = Gauge("dependency_up", "1 when the dependency answers.", ["service"])
JOB_RUNS: Final = Counter("job_runs", "Runs of background jobs.", ["job", "outcome"])
ENGINE_FAULTS: Final = Counter(
    "engine_faults", "Questions that a decision engine failed to answer.", ["kind"]
)
JOB_SECONDS: Final = Histogram(
    "job_duration_seconds", "Time of a job's run.", ["job"], buckets=_SECONDS
)
AUDIT_ROWS: Final = Counter("audit_rows", "Rows written to the audit trail.", ["resource_type"])
SESSIONS: Final = Gauge("agent_sessions", "Agent streams held by this process.")
HEARTBEATS: Final = Counter("agent_heartbeats", "Heartbeats taken.")
HEARTBEAT_FLUSHES: Final = Counter(
    "agent_heartbeat_flushes", "Statements that wrote heartbeats, whatever their number."
)
HEARTBEAT_FLUSH_FAILURES: Final = Counter(
    "agent_heartbeat_flush_failures", "Statements that should have written heartbeats and failed."
)
COMMANDS: Final = Counter("agent_commands", "Steps of commands.", ["step"])
COMMAND_SECONDS: Final = Histogram(
    "agent_command_delivery_seconds", "From issue to receipt by the agent.", buckets=_SECONDS
)
COMMAND_AGE: Final = Gauge(
    "agent_command_oldest_seconds", "Age of the oldest command that is not done."
)
FAILOVERS: Final = Counter("failovers", "Failovers that became final.", ["kind", "outcome"])
FAILOVER_SECONDS: Final = Histogram(
    "failover_response_seconds",
    "From a signal's arrival to the committed promotion.",
    buckets=_SECONDS,
)
EVENT_LISTENERS: Final = Gauge("event_listeners", "Callers that follow the events of this process.")
USAGE: Final = Counter("usage_records", "Usage records taken.", ["result"])
UNPRICED: Final = Counter("usage_unpriced_records", "Usage records stored without a model.")
ANSWERS: Final = Counter(
    "usage_answers_cached",
    "Questions about usage: answered before (hit), by another server (shared), under way for "
    "somebody else (joined), or worked out (miss).",
    ["result"],
)
READS: Final = Counter(
    "usage_answers_read",
    "Answers about usage that were worked out: by the replica, or by the primary because there is "
    "no replica (primary), it was behind (lagging) or did not answer (away).",
    ["source"],
)
USAGE_WAITING: Final = Gauge(
    "usage_ingest_waiting", "Batches that wait for their tenant's turn to be stored."
)
USAGE_LAG: Final = Histogram(
    "usage_ingest_lag_seconds",
    "How old the oldest record of a batch was when it came.",
    buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 3600, 86_400),
)
DEAD_LETTERS: Final = Counter(
    "usage_dead_letters", "Usage records kept because they could not be stored."
)
PRICE_LAG: Final = Gauge(
    "price_pipeline_lag_seconds", "How long the oldest price of the last batch waited to be clean."
)
EVENTS_HELD: Final = Gauge(
    "events_held_seconds",
    "How long the oldest event has waited for a transaction that began before it and still writes.",
)
MACHINE_CLOCK_OFFSET: Final = Gauge(
    "machine_clock_offset_seconds", "How far this machine's clock is ahead of PostgreSQL's."
)
NODES: Final = Gauge("nodes", "Machines that serve models.", ["provider", "status"])
NODE_LAUNCH_SECONDS: Final = Histogram(
    "node_launch_seconds",
    "From the order of a node to its being active.",
    ["provider"],
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 180, 300, 600, 900, 1800),
)
TENANTS: Final = Gauge("tenants", "Tenants.", ["status"])
API_KEYS: Final = Gauge("api_keys", "API keys.", ["status"])
RETENTION_DROPPED: Final = Counter(
    "retention_dropped",
    "Rows deleted and months dropped because they were kept long enough.",
    ["table"],
)
PARTITIONS_AHEAD: Final = Gauge(
    "usage_partitions_ahead", "Monthly partitions that exist beyond the current month."
)


class Handled:
    """Counts a unary method's answers; finding a labelled metric costs more than counting on it.

    Args:
        service: E.g. ``RegionService``.
        method: E.g. ``GetRegion``.
    """

    def __init__(self, service: str, method: str) -> None:
        self._by_code = {"OK": RPCS.labels(service, method, "OK")}
        self._seconds = RPC_SECONDS.labels(service, method)
        self._name = service, method

    def count(self, code: str, seconds: float) -> None:
        """Count an answer."""
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = RPCS.labels(*self._name, code)
        counter.inc()
        self._seconds.observe(seconds)


@cache
def authenticated(kind: str) -> Counter:
    """The counter of credentials of a kind that were good."""
    return AUTH.labels(kind, "OK")
