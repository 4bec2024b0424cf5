"""Compiles and evaluates the CEL conditions of a rule set.

CEL has no loops but over lists, and its library bounds their iterations. It bounds neither the
memory nor the time of a single operation on texts; the process does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from cel_expr_python import cel

from spotplane_server.decisions.confined.protocol import NO_RULE, RULE, RULES_SECONDS, Rejected

_T: Final = cel.Type
_PLACE: Final = {
    "known": _T.BOOL,
    "id": _T.STRING,
    "az": _T.STRING,
    "price": _T.DOUBLE,
    "ratio": _T.DOUBLE,
    "savings_percent": _T.DOUBLE,
    "risk": _T.DOUBLE,
    "interruptions_30d": _T.INT,
    "delta_1h": _T.DOUBLE,
    "delta_24h": _T.DOUBLE,
    "sigma_6h": _T.DOUBLE,
}
VARIABLES: Final = {
    "agent.id": _T.STRING,
    "agent.type": _T.STRING,
    "agent.region": _T.STRING,
    "agent.mode": _T.STRING,
    "agent.pool_id": _T.STRING,
    "agent.standby_pool_id": _T.STRING,
    "agent.serving_hours": _T.DOUBLE,
    **{
        f"{place}.{name}": kind
        for place in ("current", "best", "safest", "ondemand")
        for name, kind in _PLACE.items()
    },
    "limits.min_savings_percent": _T.DOUBLE,
    "limits.risk_threshold": _T.DOUBLE,
    "limits.max_switches_per_day": _T.INT,
    "limits.max_switches_per_week": _T.INT,
    "limits.min_pool_duration_hours": _T.INT,
    "now": _T.TIMESTAMP,
}


class RulesEvaluator:
    """The conditions of a rule set, ready to be asked."""

    def __init__(self, document: bytes) -> None:
        """Compile conditions.

        Args:
            document: A JSON list of the conditions' texts.

        Raises:
            Rejected: One of them does not compile to a boolean.
        """
        env = cel.NewEnv(variables=VARIABLES)
        conditions: Sequence[str] = json.loads(document)
        self._conditions = [
            _compile(env, text, f"rules[{index}].when") for index, text in enumerate(conditions)
        ]

    def answer(self, question: bytes) -> bytes:
        """Return the index of the first condition that holds.

        Args:
            question: A JSON object of all `VARIABLES`; ``now`` in seconds since 1970.

        Raises:
            Rejected: A condition failed, or they took too long.
        """
        values = json.loads(question)
        values["now"] = datetime.fromtimestamp(values["now"], UTC)
        started = time.thread_time()
        for index, condition in enumerate(self._conditions):
            holds = _evaluate(condition, values, index + 1)
            # The processor's time: having to wait for one is not the conditions' fault.
            if time.thread_time() - started > RULES_SECONDS:
                raise Rejected(
                    f"rule {index + 1}: the set takes longer than {RULES_SECONDS * 1000:.0f} ms"
                )
            if holds:
                return RULE.pack(index)
        return RULE.pack(NO_RULE)


def _compile(env: cel.Env, text: str, path: str) -> cel.Expression:
    try:
        condition = env.compile(text)
    except RuntimeError as err:
        reason = str(err).partition("<input>:")[2] or str(err)
        raise Rejected(f"{path}: {reason.splitlines()[0]}") from err
    if condition.return_type() != _T.BOOL:
        raise Rejected(f"{path} must be true or false")
    return condition


def _evaluate(condition: cel.Expression, values: Mapping[str, Any], number: int) -> bool:
    try:
        result = condition.eval(data=values)
    except RuntimeError as err:
        raise Rejected(f"rule {number}: {str(err).splitlines()[0]}") from err
    if result.type() != _T.BOOL:
        raise Rejected(f"rule {number}: {result.value()}")
    return bool(result.value())
