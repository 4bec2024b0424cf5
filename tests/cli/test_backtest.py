"""`spotplane backtest` as users run it."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.command import spotplane

COUNT = {"type": "integer", "minimum": 0}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
RESULT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "engine": {"type": "string"},
        "market": {"const": "small"},
        "availability": SHARE,
        "cost_share": {"type": "number", "exclusiveMinimum": 0},
        "optimum_cost_share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "optimum_ratio": {"type": "number", "exclusiveMinimum": 0},
        "switches": COUNT,
        "losses": COUNT,
        "losses_survived": COUNT,
        "downtime_seconds": COUNT,
        "standby_cost_share": {"type": "number", "minimum": 0},
        "boot_cost_share": {"type": "number", "minimum": 0},
        "on_demand_time_share": SHARE,
        "launches": COUNT,
        "refused_launches": COUNT,
    },
    "additionalProperties": False,
}
RESULT["required"] = list(RESULT["properties"])
REPORT: dict[str, Any] = {
    "type": "object",
    "properties": RESULT["properties"]
    | {
        "engine_version": {"type": "string"},
        "on_demand_price": {"const": 10},
        "boot_seconds": {"const": 180},
        "notice_seconds": {"const": 120},
        "standbys": {"type": ["integer", "null"]},
        "zones": {"const": ["eu-1a", "eu-1b"]},
        "ticks": {"const": 48},
        "seconds": {"const": 48 * 600},
        "baselines": {"type": "array", "items": RESULT, "minItems": 5, "maxItems": 5},
    },
    "additionalProperties": False,
}
REPORT["required"] = list(REPORT["properties"])


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """Eight hours of two zones, of which one fails in the middle."""
    lines = ["time,eu-1a:available,eu-1a:price,eu-1b:available,eu-1b:price"]
    for tick in range(48):
        at = f"2025-03-01T{tick // 6:02}:{tick % 6}0:00Z"
        lines.append(f"{at},{int(tick not in range(20, 24))},3,1,4")
    path = tmp_path / "small.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


async def test_results_are_written_as_documented(market: Path, tmp_path: Path) -> None:
    """The engine's at the top, the baselines' with the same fields, and a table for people."""
    done = await spotplane(
        "backtest", "--market", str(market), "--on-demand", "10",
        "--json", str(tmp_path / "out.json"),
    )  # fmt: skip

    assert done.status == 0, done
    report = json.loads((tmp_path / "out.json").read_text())
    jsonschema.validate(report, REPORT)
    assert report["engine"] == "hedge"
    assert [baseline["engine"] for baseline in report["baselines"]] == [
        "always-on-demand",
        "greedy",
        "greedy-with-standby",
        "one-zone",
        "round-robin",
    ]
    always, greedy = report["baselines"][:2]
    assert (always["availability"], always["cost_share"]) == (1, 1)
    assert (greedy["losses"], greedy["downtime_seconds"]) == (1, 60)
    for policy in ("hedge", "always-on-demand", "optimum"):
        assert policy in done.out


@pytest.mark.parametrize("engine", ["rules", "risk", "hedge"])
async def test_json_on_standard_output_is_nothing_else(market: Path, engine: str) -> None:
    """For every built-in engine; so that it can be piped."""
    done = await spotplane(
        "backtest", "--market", str(market), "--on-demand", "10", "--engine", engine,
        "--standbys", "1", "--json", "-",
    )  # fmt: skip

    report = json.loads(done.out)
    jsonschema.validate(report, REPORT)
    assert (report["engine"], report["standbys"]) == (engine, 1)


async def test_picture_names_every_policy(market: Path, tmp_path: Path) -> None:
    """In a format that can be read back."""
    picture = tmp_path / "out.svg"
    done = await spotplane(
        "backtest", "--market", str(market), "--on-demand", "10", "--plot", str(picture)
    )

    assert done.status == 0, done
    assert ET.parse(picture).getroot().tag.endswith("svg")
    comments = picture.read_text()
    for name in ("hedge", "optimum", "always-on-demand", "greedy-with-standby", "one-zone"):
        assert name in comments


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--on-demand", "0"), 2, "--on-demand must be a price above 0"),
        (("--on-demand", "nan"), 2, "--on-demand must be a price above 0"),
        (("--on-demand", "10", "--engine", "oracle"), 2, "built in are hedge, risk, rules"),
        (("--on-demand", "10", "--standbys", "-1"), 2, "--standbys"),
        (("--on-demand", "10", "--notice", "-1"), 2, "--notice"),
        (("--on-demand", "10", "--boot", "soon"), 2, "--boot"),
        (("--on-demand", "10", "--plot", "picture.exe"), 2, "must end in one of"),
        (("--on-demand", "10", "--json", "/nowhere/out.json"), 1, "/nowhere/out.json: No such"),
        ((), 2, "--on-demand"),
    ],
)
async def test_options_are_checked(
    market: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    """With a status that tells misuse from failure."""
    done = await spotplane("backtest", "--market", str(market), *arguments)

    assert done.status == status, done
    assert message in done.err


async def test_bad_recording_is_refused_by_line_and_column(tmp_path: Path) -> None:
    """And one that is not there by its name."""
    bad = tmp_path / "bad.csv"
    bad.write_text("time,z:available,z:price\n2025-03-01T00:00:00Z,maybe,1\n")

    done = await spotplane("backtest", "--market", str(bad), "--on-demand", "1")
    gone = await spotplane("backtest", "--market", str(tmp_path / "gone.csv"), "--on-demand", "1")

    assert (done.status, gone.status) == (1, 1)
    assert "bad.csv: line 2: column z:available: 'maybe' is not 0 or 1" in done.err
    assert "gone.csv: No such file" in gone.err
