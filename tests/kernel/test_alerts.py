"""The alert rules that are shipped watch metrics that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import REGISTRY, generate_latest
from spotplane_bridge.metrics import Metrics
from spotplane_server.kernel import metrics as metrics  # noqa: PLC0414 - registers the server's

RULES = Path(__file__).parents[2] / "docs" / "alerts.yaml"


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        found += group["rules"]
    return found


def exported() -> set[str]:
    """Names under which samples are told, by the server and by the bridge."""
    told = (generate_latest(REGISTRY) + Metrics().text()).decode()
    families = re.findall(r"^# TYPE (\S+) (\S+)", told, re.MULTILINE)
    return {name + ("_bucket" if kind == "histogram" else "") for name, kind in families}


def test_every_rule_names_metrics_that_exist() -> None:
    """A rule over a name that nobody exports would be silent for ever."""
    known = exported()
    for rule in rules():
        without_labels = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", "", rule["expr"])
        named = set(re.findall(r"[a-z][a-z_]*_[a-z_]+", without_labels))
        named -= {"histogram_quantile", "max_over_time", "min_over_time"}
        assert named, rule
        assert named <= known, (rule["alert"], named - known)


def test_every_rule_says_what_is_wrong() -> None:
    """In a sentence for whoever is woken up, and how bad it is."""
    for rule in rules():
        assert rule["annotations"]["summary"].endswith("."), rule
        assert rule["labels"]["severity"] in {"page", "warn"}, rule
