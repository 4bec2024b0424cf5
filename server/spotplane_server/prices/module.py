"""Builds the feature."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from spotplane_server.kernel.jobs.retention import Rule
from spotplane_server.kernel.module import AppContext, FeatureModule
from spotplane_server.prices.features import FeaturesJob
from spotplane_server.prices.gap_fill_job import GapFillJob
from spotplane_server.prices.pipeline import PipelineJob
from spotplane_server.prices.scores import PoolRiskJob

RETENTION: Final = (
    Rule("price_reports", "received_at", timedelta(days=30)),
    Rule("pool_scores", "computed_at", timedelta(days=90)),
    # Risk counts those of 30 days.
    Rule("pool_interruptions", "occurred_at", timedelta(days=90)),
    # What operators can look back at.
    Rule("pipeline_runs", "started_at", timedelta(days=90)),
)


def assemble(kernel: AppContext) -> FeatureModule:
    """Build the feature's jobs. Its service needs instances and is built by `fleet`."""
    return FeatureModule(
        jobs=[
            PipelineJob(kernel.db, kernel.wakeups),
            GapFillJob(kernel.db),
            PoolRiskJob(kernel.db),
            FeaturesJob(kernel.db),
        ],
        retention=RETENTION,
    )
