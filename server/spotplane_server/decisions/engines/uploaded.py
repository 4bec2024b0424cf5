"""Engines of uploaded files, each evaluated by a confined process of its own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, TypeVar

from spotplane_server.decisions import candidates
from spotplane_server.decisions.confined.protocol import Format, Rejected
from spotplane_server.decisions.confined.worker import (
    REPLACE_AFTER_SECONDS,
    Worker,
    WorkerLost,
)
from spotplane_server.decisions.engine import Decision, Snapshot
from spotplane_server.decisions.validation import EngineFault

T = TypeVar("T")

# Questions that are sent ahead of their answers, so that server and process work side by side.
AHEAD: Final = 32


class UploadInvalid(Exception):
    """A file that cannot be used as an engine; the message says why."""


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A question to the process.

    Attributes:
        body: As it is sent.
        read: Reads the answer; may raise `EngineFault`.
    """

    body: bytes
    read: Callable[[bytes], T]


class UploadedEngine(ABC):
    """An engine whose file is evaluated elsewhere; its process is started again after a failure."""

    hedges = False
    format: ClassVar[Format]

    def __init__(self, name: str, version: str, document: bytes) -> None:
        self.name = name
        self.version = version
        self._document = document
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._closed = False

    def load(self) -> None:
        """Start the process and have it check the file.

        Raises:
            UploadInvalid: It cannot be used.
        """
        with self._lock:
            if self._worker is None:
                try:
                    self._worker = Worker(self.format, self._document)
                except Rejected as err:
                    raise UploadInvalid(str(err)) from err

    def decide(self, snapshot: Snapshot) -> Decision:
        """Decide for one snapshot.

        Raises:
            EngineFault: The file failed, was late, or used more than it may.
        """
        (answer,) = self.decide_all([snapshot])
        if isinstance(answer, EngineFault):
            raise answer
        return answer

    def decide_all(self, snapshots: Sequence[Snapshot]) -> Generator[Decision | EngineFault]:
        """Decide for each snapshot, in their order; a fault takes the place of its decision."""
        for start in range(0, len(snapshots), AHEAD):
            batch = snapshots[start : start + AHEAD]
            priced = [s for s in batch if candidates.current_price(s) is not None]
            questions = [self._question(snapshot) for snapshot in priced]
            asked = self._ask(questions)
            with closing(asked) as answers:
                for snapshot in batch:
                    if candidates.current_price(snapshot) is None:
                        yield candidates.stay(snapshot, 0.5, "the current pool has no fresh price")
                    else:
                        yield next(answers)

    def ask_once(self, body: bytes, answered: Callable[[bytes], T]) -> T:
        """Ask one question that is not about a snapshot.

        Raises:
            EngineFault: As for `decide`.
        """
        with closing(self._ask([Question(body, answered)])) as answers:
            answer = next(answers)
        if isinstance(answer, EngineFault):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._closed = True
        worker = self._worker
        if worker is not None:
            worker.interrupt()
        with self._lock:
            self._drop_worker()

    @abstractmethod
    def _question(self, snapshot: Snapshot) -> Question[Decision]:
        """Make a question of a snapshot whose current place has a price."""

    def _ask(self, questions: Sequence[Question[T]]) -> Generator[T | EngineFault]:
        answered = 0
        with self._lock:
            try:
                while answered < len(questions):
                    rest = questions[answered:]
                    try:
                        for question, answer in self._converse(rest):
                            answered += 1
                            read: T | EngineFault = _read(question, answer)
                            yield read
                    except WorkerLost as fault:
                        self._drop_worker()
                        answered += 1
                        yield fault
            finally:
                # Answers that were not taken would be mistaken for those to later questions.
                if answered < len(questions):
                    self._drop_worker()

    def _converse(
        self, questions: Sequence[Question[T]]
    ) -> Iterator[tuple[Question[T], bytes | EngineFault]]:
        answers = self._running_worker().ask([question.body for question in questions])
        return zip(questions, answers, strict=True)

    def _running_worker(self) -> Worker:
        worker = self._worker
        if worker is not None and worker.busy_seconds > REPLACE_AFTER_SECONDS:
            self._drop_worker()
        if self._worker is None:
            if self._closed:
                raise WorkerLost("was replaced meanwhile")
            try:
                self._worker = Worker(self.format, self._document)
            except Rejected as err:
                raise WorkerLost(f"did not load again: {err}") from err
        return self._worker

    def _drop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def _read(question: Question[T], answer: bytes | EngineFault) -> T | EngineFault:
    if isinstance(answer, EngineFault):
        return answer
    try:
        return question.read(answer)
    except EngineFault as fault:
        return fault
