"""Structured logs: JSON lines with the correlation id, and no secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import orjson
import structlog

from spotplane_server.kernel import calls

# Whatever looks like one of our secrets loses all but its first 12 characters.
_SECRET: Final = re.compile(r"(sp_[a-z0-9]{2,16}_[0-9A-Za-z]{4})[0-9A-Za-z]{28}(_[0-9A-Za-z]{6})?")
_HIDDEN: Final = frozenset({"authorization", "x-admin-token", "key", "token", "secret", "password"})


def configure(level: str = "INFO", *, json: bool = True) -> None:
    """Send our own and the standard library's log lines to standard error.

    Args:
        level: Least level, e.g. ``INFO``.
        json: One JSON object a line; else text for people.
    """
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _correlate,
        structlog.processors.format_exc_info,
        redact,
    ]
    numeric = logging.getLevelNamesMapping()[level.upper()]
    colors = sys.stderr.isatty()
    structlog.configure(
        processors=[*shared, _dump if json else structlog.dev.ConsoleRenderer(colors=colors)],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        # Every call writes a line: bytes written at once cost a third of a text that is printed.
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer)
        if json
        else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _dump_text if json else structlog.dev.ConsoleRenderer(colors=colors),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(numeric, logging.INFO), force=True)


def redact(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Blank out members that hold secrets, and secrets inside texts."""
    for name, value in event.items():
        if name in _HIDDEN:
            event[name] = "…"
        elif isinstance(value, str) and "sp_" in value:
            event[name] = _SECRET.sub(r"\1…", value)
    return event


def _correlate(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    correlation_id = calls.correlation_id()
    if correlation_id is not None:
        event.setdefault("correlation_id", correlation_id)
    return event


def _dump(_logger: object, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(event, default=str)


def _dump_text(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    return _dump(logger, method, event).decode()
