"""Uploaded ONNX models, which score candidates; see `confined.models` for what evaluates them."""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

from spotplane_server.decisions import candidates as candidates_module
from spotplane_server.decisions import features
from spotplane_server.decisions.engine import Decision, PoolView, Snapshot
from spotplane_server.decisions.engines.uploaded import Question, UploadedEngine, UploadInvalid
from spotplane_server.decisions.validation import EngineFault

# The first question to a new model: candidates like many.
TRIAL: Final = [0.4, 1.0, 0.4, 0.0, 0.0, 0.01, 1.0, 0.05, 0.0, 1.0, 1.0, 12.0, 0.0]
# Without an output `confidence`.
CONFIDENCE: Final = 0.7


class OnnxModel(UploadedEngine):
    """An uploaded model, scoring candidates; the one of the highest score wins."""

    format = "onnx"

    def load(self) -> None:
        """Start the process and have it check the model.

        Raises:
            UploadInvalid: It is rejected, or does not answer a first question as it should.
        """
        super().load()
        rows = [TRIAL] * 3
        try:
            self.ask_once(_packed(rows), partial(_scores, len(rows)))
        except EngineFault as err:
            self.close()
            raise UploadInvalid(str(err)) from err

    def _question(self, snapshot: Snapshot) -> Question[Decision]:
        candidates, rows = features.rows(snapshot)
        return Question(_packed(rows), partial(_decision, snapshot, candidates))


def _decision(snapshot: Snapshot, candidates: Sequence[PoolView | None], answer: bytes) -> Decision:
    scores, confidence = _scores(len(candidates), answer)
    named = {
        (pool.id if pool else candidates_module.ON_DEMAND): score
        for pool, score in zip(candidates[1:], scores[1:], strict=True)
    }
    best = max(range(len(scores)), key=lambda index: (scores[index], -index))
    explained = {"stay": scores[0], **named}
    pool = candidates[best]
    here = snapshot.pool_id if snapshot.mode == "spot" else None
    if best == 0 or (pool.id if pool else None) == here:
        return candidates_module.stay(snapshot, confidence, "scored best: stay", scores=explained)
    there = pool.id if pool else candidates_module.ON_DEMAND
    return candidates_module.switch(
        snapshot, pool, confidence, f"scored best: {there}", "savings", scores=explained
    )


def _packed(rows: list[list[float]]) -> bytes:
    return _little_endian(array.array("f", [value for row in rows for value in row])).tobytes()


def _scores(count: int, answer: bytes) -> tuple[list[float], float]:
    """Scores of so many candidates, and the confidence.

    Raises:
        EngineFault: The process answered something else.
    """
    if len(answer) not in {4 * count, 4 * count + 4}:
        raise EngineFault(f"answered {len(answer)} bytes for {count} candidates")
    values = array.array("f")
    values.frombytes(answer)
    scores = list(_little_endian(values)[:count])
    if not all(math.isfinite(score) for score in scores):
        raise EngineFault("a score is not a finite number")
    confidence = values[count] if len(values) > count else CONFIDENCE
    if not 0 <= confidence <= 1:
        raise EngineFault("confidence must be between 0 and 1")
    return scores, confidence


def _little_endian(values: array.array[float]) -> array.array[float]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
