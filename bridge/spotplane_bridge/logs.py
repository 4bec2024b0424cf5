"""Structured logs: one JSON object per line, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog


def configure(level: str) -> None:
    """Send log lines of at least ``level``, ours and our libraries', to standard error as JSON."""
    numeric = logging.getLevelNamesMapping()[level]
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_dump)],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_dump),
            ],
        )
    )
    # The libraries' lines about single requests would repeat our own line per request.
    logging.basicConfig(handlers=[handler], level=max(numeric, logging.WARNING), force=True)
    # The middleware logs failures of our own code; aiohttp logs only malformed requests here, each
    # with a traceback.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def _dump(value: Any, **_: Any) -> str:
    return orjson.dumps(value, default=str).decode()
