"""Recorded markets: read, and replayed through the fleet."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from spotplane_server.dev import recording
from spotplane_server.dev.recording import BadRecording

from tests.dev.conftest import development
from tests.support.eventually import eventually

# A whole stack comes up; on a machine that is busy otherwise that alone takes a while.
pytestmark = pytest.mark.timeout(120)

HEADER = "tick,us-east-1a:available,us-east-1a:price,us-east-1b:available,us-east-1b:price\n"


def test_row_is_a_tick_with_availability_and_prices(tmp_path: Path) -> None:
    """Prices become nano-USD exactly; an empty one is no price."""
    path = tmp_path / "aws-p3.2xlarge.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "0,1,0.918,0,\n1,0,0.9181,1,1.5\n").encode()))

    played = recording.read(path)

    assert played.zones == ("us-east-1a", "us-east-1b")
    assert played.ticks[0].available == {"us-east-1a"}
    assert played.ticks[0].prices == {"us-east-1a": 918_000_000}
    assert played.ticks[1].prices == {"us-east-1a": 918_100_000, "us-east-1b": 1_500_000_000}


@pytest.mark.parametrize(
    "content",
    [b"", b"a,b\n1,2\n", HEADER.encode(), HEADER.encode() + b"0,1,dear,0,\n", b"\x1f\x8bjunk"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """Before anything is started."""
    path = tmp_path / "market.csv"
    path.write_bytes(content)

    with pytest.raises(BadRecording):
        recording.read(path)


@pytest.mark.parametrize(
    ("zone", "region"),
    [("us-east-1a", "us-east-1"), ("us-central1-a", "us-central1"), ("eu-west-2c", "eu-west-2")],
)
def test_region_of_a_zone(zone: str, region: str) -> None:
    """Of both clouds' ways to name them."""
    assert recording.region_of(zone) == region


async def test_zone_that_dries_up_gives_notice_to_whoever_is_there(tmp_path: Path) -> None:
    """The replayed market takes instances back as the recorded one did, and agents move on."""
    market = tmp_path / "aws-p3.2xlarge-test.csv"
    # Long enough that replicas stand ready, then one zone after the other is dry.
    rows = [f"{n},1,0.9,1,0.9\n" for n in range(12)] + [
        f"{n},{n // 4 % 2},0.9,{1 - n // 4 % 2},0.9\n" for n in range(12, 400)
    ]
    market.write_text(HEADER + "".join(rows))
    arguments = ("--agents", "1", "--market", str(market), "--market-tick", "0.5")
    with development(tmp_path / "data", *arguments, "--first-notice", "3600") as run:
        await eventually(lambda: "the cloud takes back chat-01" in run.text, within=30)
        await eventually(lambda: "FAILOVER of chat-01" in run.text, within=20)
