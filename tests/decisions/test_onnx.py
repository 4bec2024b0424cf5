"""Uploaded models: what they see, what they answer, and what they cannot do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from spotplane_server.decisions import features
from spotplane_server.decisions.engines.onnx import OnnxModel
from spotplane_server.decisions.engines.uploaded import UploadInvalid
from spotplane_server.decisions.validation import EngineFault, checked

from tests.decisions import models
from tests.decisions.markets import NOW, TYPE, pool, rising, snapshot

TWO = snapshot(pool("a", 0.4), pool("b", 0.3, risk=0.2))
ONE = snapshot(pool("a", 0.4))


@contextmanager
def loaded(data: bytes) -> Iterator[OnnxModel]:
    """A model whose process runs for the block."""
    model = OnnxModel("ours", "1", data)
    model.load()
    try:
        yield model
    finally:
        model.close()


def test_the_highest_score_wins() -> None:
    """A model that likes cheap places goes to the cheapest, one that likes calm ones stays."""
    with loaded(models.linear(price=-1)) as model:
        decision = checked(model.decide(TWO), TWO)
        assert (decision.action, decision.target_pool_id) == ("switch", f"{TYPE}.b")
        assert decision.expected_savings == pytest.approx(0.1)
        assert set(decision.scores) == {"stay", "ondemand", f"{TYPE}.a", f"{TYPE}.b"}
        assert decision.confidence == 0.7
    with loaded(models.linear(confidence=0.9, risk=-1, is_spot=1)) as model:
        decision = checked(model.decide(TWO), TWO)
        assert decision.action == "stay"
        assert decision.confidence == pytest.approx(0.9)
    with loaded(models.linear(is_spot=-1)) as model:
        decision = checked(model.decide(TWO), TWO)
        assert (decision.target_mode, decision.target_pool_id) == ("ondemand", None)


def test_features_are_the_columns_that_are_documented() -> None:
    """A row for staying, one for on demand, and one for each pool with a price."""
    market = snapshot(
        rising("a", 0.2, 0.4, every=timedelta(hours=1)),
        pool("b", 0.3, risk=0.2, interruptions=[NOW - timedelta(days=2)] * 3),
        pool("c", None),
    )
    candidates, rows = features.rows(market)
    assert [view.az if view else None for view in candidates] == ["a", None, "a", "b"]
    named = [dict(zip(features.COLUMNS, row, strict=True)) for row in rows]
    assert named[0] == named[2] | {"is_current": 1.0}
    assert named[1] | {"hour": 0, "weekday": 0} == dict.fromkeys(features.COLUMNS, 0.0) | {
        "price": 1.0,
        "on_demand_price": 1.0,
        "ratio": 1.0,
    }
    assert named[2] == {
        "price": 0.4,
        "on_demand_price": 1.0,
        "ratio": 0.4,
        "delta_1h": 1.0,
        "delta_24h": 0.0,
        "sigma_6h": pytest.approx(0.1),
        "rank": 2.0,
        "risk": 0.05,
        "interruptions_30d": 0.0,
        "is_current": 1.0,
        "is_spot": 1.0,
        "hour": 12.0,
        "weekday": 0.0,
    }
    assert (named[3]["interruptions_30d"], named[3]["rank"], named[3]["is_current"]) == (3, 1, 0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no model at all", "ONNX"),
        (b"", "model"),
        (models.narrow(), "13"),
        (models.fixed(), "free"),
        (models.misnamed(), "score"),
        (models.misshaped(), "shape"),
        (models.custom(), "evil.ops"),
        (models.external(), "external data"),
    ],
    ids=["text", "empty", "narrow", "fixed", "misnamed", "misshaped", "custom", "external"],
)
def test_what_is_no_model_of_ours_is_refused_with_what_is_wrong(data: bytes, said: str) -> None:
    """When it is uploaded; nothing of it has run."""
    with pytest.raises(UploadInvalid) as caught:
        OnnxModel("ours", "1", data).load()
    assert said in str(caught.value)


def test_a_model_that_takes_too_long_is_ended() -> None:
    """It fails, and answers again when asked what it can."""
    data = models.slow()
    models.check(data)
    with loaded(data) as model:
        started = time.monotonic()
        with pytest.raises(EngineFault, match="too long"):
            model.decide(TWO)
        assert time.monotonic() - started < 5
        assert model.decide(ONE).action == "stay"


def test_a_model_that_needs_too_much_memory_fails_alone() -> None:
    """3 GiB are more than 512 MiB; the server does not notice."""
    data = models.greedy(gib=3)
    models.check(data)
    with loaded(data) as model:
        with pytest.raises(EngineFault):
            model.decide(TWO)
        assert model.decide(ONE).action == "stay"


def test_scores_that_are_no_numbers_are_refused() -> None:
    """An infinite one is none."""
    with pytest.raises(UploadInvalid, match="finite"):
        OnnxModel("ours", "1", models.linear(price=float("inf"))).load()
