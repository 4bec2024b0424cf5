"""Structured logs: JSON lines with the correlation id, and no secrets."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import structlog

from spotplane_server.kernel import request_context

_log = structlog.get_logger(__name__)

# Whatever looks like one of our secrets loses all but its first 12 characters.
_SECRET: Final = re.compile(r"(sp_[a-z0-9]{2,16}_[0-9A-Za-z]{4})[0-9A-Za-z]{28}(_[0-9A-Za-z]{6})?")
GATHER_SECONDS: Final = 0.05
GATHER_LINES: Final = 1000
_HIDDEN: Final = frozenset({"authorization", "x-admin-token", "key", "token", "secret", "password"})


class AccessLog:
    """The line of each answered call, at a third of a log line's cost.

    Lines are made without the processors and gathered for a moment, since a write for each costs as
    much as making it. A process that is killed loses those of that moment. Until `configure` asks
    for JSON they are ordinary log lines.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self._lines: list[bytes] = []

    def send_to(self, file: Any) -> None:
        """Write to this binary file; None makes them ordinary log lines."""
        self.flush()
        self._file = file

    def write(self, event: dict[str, Any]) -> None:
        """Write a line; ``event`` has its members but level and time, and is kept."""
        if self._file is None:
            _log.info(event.pop("event"), **event)
            return
        event["level"] = "info"
        event["timestamp"] = datetime.now(UTC)
        line = orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
        if b"sp_" in line:
            line = _SECRET.sub(r"\1…", line.decode()).encode()
        if not self._lines:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self.flush)
        self._lines.append(line)
        if len(self._lines) >= GATHER_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._file.write(b"".join(lines))
            self._file.flush()


access: Final = AccessLog()


def _is_loggable(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding")


def hide_metadata() -> None:
    """Keep gRPC from logging metadata that is not UTF-8, which may be a credential.

    It logs the bytes and a traceback for each time that the metadata of a call is read.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_loggable)


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
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer)
        if json
        else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    access.send_to(sys.stderr.buffer if json and numeric <= logging.INFO else None)
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
    correlation_id = request_context.correlation_id()
    if correlation_id is not None:
        event.setdefault("correlation_id", correlation_id)
    return event


def _dump(_logger: object, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(event, default=str)


def _dump_text(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    return _dump(logger, method, event).decode()
