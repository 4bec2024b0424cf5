"""How an engine is asked: its own failures and delays never reach who asks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, Protocol, TypeAlias
from uuid import UUID

import structlog

from spotplane_server.decisions import snapshots as snapshots_module
from spotplane_server.decisions import uploads
from spotplane_server.decisions.engine import Decision, Engine, Snapshot
from spotplane_server.decisions.engines.remote import RemoteEngine
from spotplane_server.decisions.engines.uploaded import UploadedEngine
from spotplane_server.decisions.validation import EngineFault, checked

log = structlog.get_logger(__name__)

Kind: TypeAlias = Literal["rules", "built_in", "cel", "onnx", "installed", "remote"]

# An answer, or the fault in its place.
Answer: TypeAlias = Decision | EngineFault

SECONDS: Final = 2.0
# After so many failures in a row the rest of a batch is not asked.
IN_A_ROW: Final = 3
_LOOK_EVERY: Final = 0.25
_BUILT_IN_HISTORY: Final = timedelta(0)
# What trends are computed of.
_TREND_HISTORY: Final = timedelta(hours=26)


class NotAsked(EngineFault):
    """The engine failed too often just before."""


class Seat(Protocol):
    """An engine that can be asked."""

    kind: Kind
    session_id: UUID | None

    @property
    def name(self) -> str:
        """The engine's name."""
        ...

    @property
    def version(self) -> str:
        """The engine's version."""
        ...

    @property
    def hedges(self) -> bool:
        """Whether it says when a standby is worth its price."""
        ...

    @property
    def history(self) -> timedelta:
        """How much of the past it asks for."""
        ...

    async def ask(self, snapshots: Sequence[Snapshot]) -> list[Answer]:
        """An answer each, in their order; after three failures in a row the rest is not asked."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


@dataclass
class _Progress:
    """How far a thread has come; read by the event loop."""

    answers: list[Answer]
    started: float
    given_up: bool = False


class InThread:
    """An engine of this process, asked in a thread of its own and left there when it hangs."""

    def __init__(self, kind: Kind, engine: Engine, session_id: UUID | None = None) -> None:
        self.kind = kind
        self.session_id = session_id
        self._engine = engine
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    @property
    def version(self) -> str:
        """The engine's version."""
        return self._engine.version

    @property
    def hedges(self) -> bool:
        """Whether it says when a standby is worth its price."""
        return bool(getattr(self._engine, "hedges", False))

    @property
    def history(self) -> timedelta:
        """How much of the past it asks for."""
        if self._engine.name in {"rules", "risk"} and self.kind in {"rules", "built_in"}:
            return _BUILT_IN_HISTORY
        return _TREND_HISTORY if self.kind in {"cel", "onnx"} else snapshots_module.HISTORY

    async def ask(self, snapshots: Sequence[Snapshot]) -> list[Answer]:
        """An answer each, in their order."""
        async with self._turn:
            return await self._ask(snapshots)

    async def close(self) -> None:
        """Let go of what it holds."""
        await uploads.close(self._engine)

    async def _ask(self, snapshots: Sequence[Snapshot]) -> list[Answer]:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        progress = _Progress([], time.monotonic())

        def work() -> None:
            _ask_each(self._engine, snapshots, progress)
            with suppress(RuntimeError):  # the process is ending
                loop.call_soon_threadsafe(done.set)

        # A daemon: an engine that hangs must not keep the process from ending.
        threading.Thread(target=work, name=f"engine:{self.name}", daemon=True).start()
        while not done.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await done.wait()
            if not done.is_set() and time.monotonic() - progress.started > SECONDS:
                progress.given_up = True
                break
        answers = list(progress.answers)
        if len(answers) < len(snapshots) and progress.given_up:
            answers.append(EngineFault("took longer than 2 s"))
        rest = len(snapshots) - len(answers)
        return answers + [NotAsked("not asked: it failed before")] * rest


def _ask_each(engine: Engine, snapshots: Sequence[Snapshot], progress: _Progress) -> None:
    failures = 0
    progress.started = time.monotonic()
    for answer in _answers(engine, snapshots):
        if progress.given_up:
            return
        late = time.monotonic() - progress.started > SECONDS
        timely = EngineFault("took longer than 2 s") if late else answer
        progress.answers.append(timely)
        failures = failures + 1 if isinstance(timely, EngineFault) else 0
        if failures >= IN_A_ROW:
            return
        progress.started = time.monotonic()


def _answers(engine: Engine, snapshots: Sequence[Snapshot]) -> Iterator[Answer]:
    if not isinstance(engine, UploadedEngine):
        yield from (_one(engine, snapshot) for snapshot in snapshots)
        return
    with closing(engine.decide_all(snapshots)) as answers:
        for snapshot, answer in zip(snapshots, answers, strict=True):
            yield answer if isinstance(answer, EngineFault) else _verified(answer, snapshot)


def _one(engine: Engine, snapshot: Snapshot) -> Answer:
    try:
        return _verified(engine.decide(snapshot), snapshot)
    except EngineFault as fault:
        return fault
    except Exception as err:  # noqa: BLE001 - an operator's engine may raise anything
        return EngineFault(f"raised {type(err).__name__}: {err}"[:300])


def _verified(answer: Decision, snapshot: Snapshot) -> Answer:
    try:
        return checked(answer, snapshot)
    except EngineFault as fault:
        return fault


class Elsewhere:
    """An engine behind gRPC."""

    kind: Kind = "remote"
    session_id: UUID | None = None
    hedges = False
    history = snapshots_module.HISTORY
    _BATCH: Final = 64

    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    @property
    def version(self) -> str:
        """The engine's version."""
        return self._engine.version

    async def ask(self, snapshots: Sequence[Snapshot]) -> list[Answer]:
        """An answer each, in their order."""
        answers: list[Answer] = []
        for start in range(0, len(snapshots), self._BATCH):
            batch = snapshots[start : start + self._BATCH]
            answers += await asyncio.gather(*(self._one(snapshot) for snapshot in batch))
            last = answers[-IN_A_ROW:]
            if len(last) == IN_A_ROW and all(isinstance(a, EngineFault) for a in last):
                break
        rest: list[Any] = [NotAsked("not asked: it failed before")]
        return answers + rest * (len(snapshots) - len(answers))

    async def introduce(self) -> None:
        """Learn its name; one that does not answer now may later, and is asked all the same."""
        try:
            await self._engine.load()
        except EngineFault as fault:
            log.warning("engine_not_introduced", fault=str(fault))

    async def close(self) -> None:
        """Close the connection."""
        await self._engine.close()

    async def _one(self, snapshot: Snapshot) -> Answer:
        try:
            return checked(await self._engine.ask(snapshot), snapshot)
        except EngineFault as fault:
            return fault
