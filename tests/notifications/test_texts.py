"""What people are told, event by event."""

from __future__ import annotations

from typing import Any

import pytest
from spotplane_server.notifications.templates import Draft, dollars, draft

MOVED = {
    "old_mode": "ondemand",
    "new_mode": "spot",
    "new_pool_id": "t3.medium.us-east-1a",
    "savings_impact_nanousd": 30_000_000,
}


BUDGET = {"name": "May", "spent_nanos": 1_234_500_000_000, "limit_nanos": 1_543_120_000_000}


@pytest.mark.parametrize(
    ("event_type", "data", "told"),
    [
        ("agent.registered", {}, Draft("info", "New agent web registered")),
        (
            "agent.status_changed",
            {"old_status": "online", "new_status": "offline"},
            Draft("warning", "Agent web is offline"),
        ),
        (
            "agent.status_changed",
            {"old_status": "offline", "new_status": "online"},
            Draft("info", "Agent web is back online"),
        ),
        ("agent.status_changed", {"old_status": "online", "new_status": "switching"}, None),
        ("agent.deleted", {}, Draft("info", "Agent web was deleted")),
        ("client.created", {"name": "ACME"}, Draft("info", "Client ACME was created")),
        ("token.regenerated", {}, Draft("warning", "The client token was regenerated")),
        (
            "switch.completed",
            MOVED,
            Draft(
                "info",
                "Agent web switched from on demand to pool t3.medium.us-east-1a: saves $0.0300/h",
            ),
        ),
        (
            "switch.completed",
            MOVED | {"savings_impact_nanousd": -5_000_000},
            Draft(
                "info",
                "Agent web switched from on demand to pool t3.medium.us-east-1a: costs $0.0050/h",
            ),
        ),
        (
            "switch.failed",
            {"message": "no capacity"},
            Draft("error", "The switch of agent web failed: no capacity"),
        ),
        (
            "budget.threshold_reached",
            BUDGET | {"threshold_pct": 80},
            Draft(
                "warning", 'The budget "May" of the tenant is used to 80%: $1,234.50 of $1,543.12'
            ),
        ),
        (
            "budget.exceeded",
            BUDGET | {"api_key_id": "k"},
            Draft("error", 'The budget "May" of one API key is used up: $1,234.50 of $1,543.12'),
        ),
        ("budget.exceeded", BUDGET | {"hard_stop": True}, None),
        (
            "budget.stopped",
            BUDGET,
            Draft(
                "error",
                'The budget "May" of the tenant is used up, $1,543.12: calls that do more than '
                "read are refused until it is raised",
            ),
        ),
        (
            "budget.resumed",
            BUDGET,
            Draft("info", 'The budget "May" of the tenant stops nobody any more'),
        ),
        (
            "termination.notice",
            {"instance_id": "i-1"},
            Draft("warning", "Termination notice for instance i-1 of agent web"),
        ),
        (
            "failover.promoted",
            {"old_instance_id": "i-1", "new_instance_id": "i-2", "response_ms": 12.6},
            Draft("warning", "Emergency: i-2 took over from i-1 for agent web within 13 ms"),
        ),
        (
            "instance.terminated",
            {"instance_id": "i-1"},
            Draft("info", "Instance i-1 of agent web was terminated"),
        ),
        ("decision.made", {}, None),
        ("notification.created", {"message": "x"}, None),
    ],
)
def test_event_is_told_in_words(event_type: str, data: dict[str, Any], told: Draft | None) -> None:
    """And in no others."""
    assert draft(event_type, data, "web") == told


def test_alert_is_told_on_the_dashboard_only_where_it_was_asked_for() -> None:
    """By its channels."""
    data = {"alert_type": "threshold_above", "pool_id": "p.a", "price": 0.5, "threshold": 0.4}

    assert draft("price_alert.triggered", {**data, "channels": ["email"]}, None) is None
    assert draft("price_alert.triggered", {**data, "channels": ["dashboard"]}, None) == Draft(
        "info", "The price of pool p.a, $0.5000/h, is at or above $0.4000/h"
    )


def test_long_texts_are_cut_and_missing_members_do_no_harm() -> None:
    """Whatever an agent told."""
    told = draft("switch.failed", {"message": "x" * 5000}, "web")

    assert told is not None
    assert len(told.message) == 500
    assert draft("switch.completed", {}, None) is not None
    assert dollars(None) == "an unknown price"
    assert dollars(-1_500_000_000) == "-$1.5000/h"
