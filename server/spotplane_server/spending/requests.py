"""Parse requests of BudgetService."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import uuid4

from spotplane.v1 import budget_pb2 as pb

from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Invalid
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.spending import rules
from spotplane_server.spending.rules import BudgetStatus
from spotplane_server.spending.store import BudgetRef, Draft

MAX_NAME: Final = 255
_NANOS: Final = 10**9
_Settings: TypeAlias = pb.CreateBudgetRequest | pb.UpdateBudgetRequest
_CHANGEABLE: Final = ("name", "limit_usd", "limit_nanos", "alert_thresholds_pct", "hard_stop")


def tenant_id(request: Any) -> TenantId:
    """Return the tenant of an administrator's request."""
    return TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))


def named(request: Any) -> BudgetRef:
    """Return the budget of an administrator's request."""
    return BudgetRef(tenant_id(request), wire.uuid(request.id, "id", "budget ID"))


def new(request: pb.CreateBudgetRequest) -> Draft:
    """Parse a new budget.

    Raises:
        Invalid: A setting is missing or out of its range.
    """
    owner = tenant_id(request)
    name = wire.text(request.name, "name", maximum=MAX_NAME, required=True)
    limit = _limit(request)
    if limit is None:
        raise wire.missing("limit_usd")
    return Draft(
        owner,
        uuid4(),
        wire.optional_uuid(request, "api_key_id", "API key ID"),
        wire.optional_one_of(request, "period", rules.PERIODS) or rules.DEFAULT_PERIOD,
        name,
        limit,
        _thresholds(request.alert_thresholds_pct) or list(rules.DEFAULT_THRESHOLDS),
        request.hard_stop,
    )


def changed(request: pb.UpdateBudgetRequest, present: BudgetStatus) -> Draft:
    """Parse an update; return all settings of the budget after it.

    Raises:
        Invalid: No field is set, or a setting is out of range.
        Semantic: The period or the key would change.
    """
    given = {field.name for field, _ in request.ListFields()}
    if not given & set(_CHANGEABLE):
        raise Invalid(
            "no field to update",
            reason="NO_FIELDS",
            suggestion=f"send at least one of {', '.join(_CHANGEABLE)}",
        )
    key = str(present.api_key_id) if present.api_key_id else ""
    wire.immutable(request, {"period": present.period, "api_key_id": key})
    draft = Draft(
        present.tenant_id,
        present.id,
        present.api_key_id,
        present.period,
        present.name,
        _limit(request) or present.limit_nanos,
        _thresholds(request.alert_thresholds_pct) or present.alert_thresholds_pct,
        request.hard_stop if request.HasField("hard_stop") else present.hard_stop,
    )
    if request.HasField("name"):
        name = wire.text(request.name, "name", maximum=MAX_NAME, required=True)
        draft = replace(draft, name=name)
    return draft


def _limit(request: _Settings) -> int | None:
    """Return the exact limit in nano-dollars; None if absent."""
    if request.HasField("limit_nanos"):
        if request.HasField("limit_usd"):
            raise Invalid("limit_usd and limit_nanos exclude each other", field="limit_nanos")
        return wire.integer(request.limit_nanos, "limit_nanos", 1, rules.MAX_LIMIT_NANOS)
    if not request.HasField("limit_usd"):
        return None
    most = Decimal(rules.MAX_LIMIT_NANOS) / _NANOS
    limit = wire.decimal(request.limit_usd, "limit_usd", digits=9, maximum=most)
    if not limit:
        raise wire.out_of_range("limit_usd", "above 0")
    return int(limit * _NANOS)


def _thresholds(given: Iterable[int]) -> list[int]:
    field = "alert_thresholds_pct"
    shares = rules.thresholds(
        [wire.integer(share, field, 1, rules.MAX_THRESHOLD_PCT) for share in given]
    )
    if len(shares) > rules.MAX_THRESHOLDS:
        raise wire.out_of_range(field, f"at most {rules.MAX_THRESHOLDS} shares")
    return shares
