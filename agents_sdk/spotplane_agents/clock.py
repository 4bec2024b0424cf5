"""The server's time on a machine with a clock that may be wrong."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1.agent_stream_pb2 import Report

# The server's time arrives late by the network's delay, and in HTTP without its fraction of a
# second. A smaller difference is no evidence that the machine's clock is wrong.
TOLERANCE: Final = timedelta(seconds=2)
# Mean error of an HTTP date, which is truncated to whole seconds.
HALF_A_SECOND: Final = timedelta(seconds=0.5)


class ServerClock:
    """Estimates the server's clock from the time since boot, independent of clock changes."""

    def __init__(self) -> None:
        self._server_time: datetime | None = None
        self._read_at = 0.0

    @property
    def synchronized(self) -> bool:
        """Whether the server's time is known."""
        return self._server_time is not None

    def synchronize(self, server_time: datetime) -> None:
        """Set the clock to the server's time, received just now."""
        if self.synchronized and abs(server_time - self.now()) < TOLERANCE:
            return
        self._server_time, self._read_at = server_time, _since_boot()

    def now(self) -> datetime:
        """Return the server's time; the machine's while the server's is unknown."""
        return datetime.now(UTC) + self.offset()

    def offset(self) -> timedelta:
        """Return the server's time minus this machine's; 0 when that is not significant."""
        if self._server_time is None:
            return timedelta()
        server = self._server_time + timedelta(seconds=_since_boot() - self._read_at)
        ahead = server - datetime.now(UTC)
        return ahead if abs(ahead) >= TOLERANCE else timedelta()


def http_date(text: str | None) -> datetime | None:
    """Parse the `Date` header of a response; None when it is absent or malformed."""
    try:
        at = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return at + HALF_A_SECOND if at.tzinfo is not None else None


def shift_instants(report: Report, by: timedelta) -> None:
    """Shift the instants of a report that this machine has measured.

    A notice's deadline is the cloud's, and a command result has the server's time already.
    """
    kind = report.WhichOneof("kind")
    if kind == "usage":
        for record in report.usage.records:
            if record.HasField("timestamp"):
                record.timestamp = (datetime.fromisoformat(record.timestamp) + by).isoformat()
    elif kind == "prices":
        _shift(report.prices.observed_at, by)
    elif kind == "notice":
        _shift(report.notice.detected_at, by)
    elif kind == "termination":
        _shift(report.termination.terminated_at, by)


def _shift(at: Timestamp, by: timedelta) -> None:
    if at.ByteSize():
        at.FromDatetime(at.ToDatetime(UTC) + by)


def _since_boot() -> float:
    # Continues while the machine is suspended, unlike the monotonic clock.
    return time.clock_gettime(time.CLOCK_BOOTTIME)
