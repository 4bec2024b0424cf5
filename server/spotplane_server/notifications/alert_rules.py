"""When a price alert fires, and when it may fire again. Prices in nano-dollars an hour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

AlertType: TypeAlias = Literal["price_spike", "price_drop", "threshold_above", "threshold_below"]

REST: Final = timedelta(hours=1)
# How far back across its threshold a value must go before the alert is armed again.
BACK_PERCENT: Final = 5


@dataclass(frozen=True, slots=True)
class State:
    """An alert's memory for one pool."""

    armed: bool = True
    triggered_at: datetime | None = None


def step(
    state: State,
    alert_type: AlertType,
    threshold: int,
    *,
    price: int,
    hour_before: int | None,
    at: datetime,
) -> tuple[bool, State]:
    """Whether the alert fires on a price, and what it remembers.

    Args:
        state: What it remembered.
        alert_type: What it compares.
        threshold: Above 0.
        price: Of the pool, at ``at``.
        hour_before: Of the pool one hour earlier; None when it is not known.
        at: Instant of the price; a state is only stepped forward in time.
    """
    value = _value(alert_type, price, hour_before)
    if value is None:
        return False, state
    below = alert_type == "threshold_below"
    met = value <= threshold if below else value >= threshold
    if state.armed and met:
        if state.triggered_at is not None and at - state.triggered_at < REST:
            return False, state
        return True, State(False, at)
    if not state.armed and _is_back(value, threshold, below=below):
        return False, State(True, state.triggered_at)
    return False, state


def _value(alert_type: AlertType, price: int, hour_before: int | None) -> int | None:
    if alert_type in {"threshold_above", "threshold_below"}:
        return price
    if hour_before is None:
        return None
    return price - hour_before if alert_type == "price_spike" else hour_before - price


def _is_back(value: int, threshold: int, *, below: bool) -> bool:
    if below:
        return value * 100 >= threshold * (100 + BACK_PERCENT)
    return value * 100 <= threshold * (100 - BACK_PERCENT)
