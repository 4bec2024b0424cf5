"""Recordings of markets, and what is wrong with files that are none."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest
from spotplane_server.decisions.backtest import recording
from spotplane_server.decisions.backtest.recording import NANO, BadRecording

HEADER = "time,us-east-1a:available,us-east-1a:price,us-east-1b:available,us-east-1b:price\n"
ROWS = (
    "2025-03-01T00:00:00Z,1,0.918,0,\n2025-03-01T00:03:15Z,0,0.9181,1,1.5\n"
    "2025-03-01T00:06:31Z,1,1,1,2\n"
)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_ticks_last_from_one_time_to_the_next(tmp_path: Path, pack: object) -> None:
    """Plain or gzipped; the last tick lasts as long as the middle one; prices are exact."""
    path = tmp_path / "aws.csv.gz"
    path.write_bytes(pack((HEADER + ROWS).encode()))  # type: ignore[operator]

    read = recording.read(path)

    assert read.name == "aws"
    assert read.zones == ("us-east-1a", "us-east-1b")
    assert read.origin == datetime(2025, 3, 1, tzinfo=UTC)
    assert read.starts == [0, 195, 391, 586]
    assert read.available == [(True, False), (False, True), (True, True)]
    assert read.prices[0] == (918_000_000, None)
    assert read.prices[2] == (NANO, 2 * NANO)


def test_file_without_times_needs_to_be_told_its_step(tmp_path: Path) -> None:
    """And then every tick lasts as long."""
    path = tmp_path / "market.csv"
    path.write_text("tick,z:available,z:price\n0,1,2\n1,0,2\n")

    assert recording.read(path, 60).starts == [0, 60, 120]
    with pytest.raises(BadRecording, match="line 1: no column `time`"):
        recording.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: columns must be"),
        (b"time,b\n1,2\n", "line 1: columns must be"),
        (b"time,z:available\n", "column z:available has no z:price"),
        (b"time,z:price\n", "column z:price has no z:available"),
        (b"time,z:available,z:price,z:price\n", "column z:price comes twice"),
        (HEADER.encode(), "has no rows"),
        ((HEADER + ROWS).replace(",1,1.5", ",2,1.5").encode(), "line 3: column us-east-1b:avail"),
        ((HEADER + ROWS).replace("0.918,", "dear,").encode(), "line 2: column us-east-1a:price"),
        ((HEADER + ROWS).replace("0.918,", "-1,").encode(), "line 2: column us-east-1a:price"),
        ((HEADER + ROWS).replace("0.918,", "nan,").encode(), "line 2: column us-east-1a:price"),
        ((HEADER + ROWS).replace("0.918,", ",").encode(), "empty where spot was to be had"),
        ((HEADER + ROWS).replace("0.9181,", "").encode(), "line 3: 4 fields, the header has 5"),
        ((HEADER + ROWS).replace("00:03:15Z", "noon").encode(), "line 3: column time"),
        ((HEADER + ROWS).replace("00:06:31Z", "00:03:15Z").encode(), "line 4: column time: not la"),
        (b"\x1f\x8bjunk", "neither text nor gzipped"),
        (b"\xff\xfe\x00", "neither text nor gzipped"),
    ],
)
def test_what_is_wrong_is_said_by_line_and_column(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """So that a file can be mended."""
    path = tmp_path / "market.csv"
    path.write_bytes(content)

    with pytest.raises(BadRecording, match=message):
        recording.read(path)
