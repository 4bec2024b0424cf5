"""Prometheus metrics of a bridge process; every label has few values."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "http_requests_total",
            "Answers by method, route and status.",
            ("method", "path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "Time from the request's head to the end of its answer.",
            ("method", "path"),
            registry=self._registry,
            buckets=(
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
                60,
            ),
        )
        self._connections = Gauge(
            "active_connections",
            "Open client connections.",
            ("door",),
            registry=self._registry,
        )
        self._event_streams = Gauge(
            "event_streams", "Pages and programs that follow events.", registry=self._registry
        )
        self._dependency = Gauge(
            "dependency_up",
            "Whether a dependency answered its last check.",
            ("service",),
            registry=self._registry,
        )
        # The lookup of a label takes a lock and a sort; each is looked up once.
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, template: str, status: int, seconds: float) -> None:
        """Count one response."""
        known = self._known.get((method, template, status))
        if known is None:
            known = self._known[method, template, status] = (
                self._requests.labels(method, template, str(status)),
                self._seconds.labels(method, template),
            )
        known[0].inc()
        known[1].observe(seconds)

    def count_connections(self, count: Callable[[], float]) -> None:
        """Call ``count`` for the number of open connections at every scrape."""
        self._connections.labels("rest").set_function(count)

    def count_event_streams(self, count: Callable[[], float]) -> None:
        """Call ``count`` for the number of open event streams at every scrape."""
        self._event_streams.set_function(count)

    def set_dependency(self, service: str, *, up: bool) -> None:
        """Record whether a dependency works."""
        self._dependency.labels(service).set(1 if up else 0)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
