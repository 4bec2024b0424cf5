"""Which commands were received, started and done."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from spotplane.v1.agent_stream_pb2 import CommandResult
from spotplane_agents.journal import INTERRUPTED, Journal
from spotplane_agents.spool import Spool
from spotplane_agents.state import State

from tests.sdk.plane import command


class Disk:
    """A journal and its spool, to be opened again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.open()

    def open(self) -> None:
        self.state = State(self._directory)
        self.spool = Spool(self.state)
        self.journal = Journal(self.state, self.spool)

    def restart(self) -> None:
        self.state.close()
        self.open()

    def results(self) -> list[CommandResult]:
        return [w.report.command_result for w in self.spool.next(0, after_id=0, limit=100)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.state.close()


def now() -> datetime:
    return datetime.now(UTC)


def test_command_is_new_once(disk: Disk) -> None:
    """A second delivery of the same id is known as what it is."""
    order = command("greet")

    assert disk.journal.receive(order) == "new"
    assert disk.journal.receive(order) == "received"
    assert disk.journal.start(order.command_id)
    assert disk.journal.receive(order) == "started"
    assert not disk.journal.start(order.command_id)


def test_result_and_its_report_are_one_commit(disk: Disk) -> None:
    """After a restart a finished command is done and its result waits to be sent."""
    order = command("greet")
    disk.journal.receive(order)
    disk.journal.start(order.command_id)
    disk.journal.finish(CommandResult(command_id=order.command_id, success=True))

    disk.restart()

    assert [r.command_id for r in disk.results()] == [order.command_id]
    assert disk.journal.open_ids() == [order.command_id]
    assert disk.journal.recover(lambda _: True, now()) == []


def test_redelivery_after_the_result_sends_the_stored_one_again(disk: Disk) -> None:
    order = command("greet")
    disk.journal.receive(order)
    disk.journal.finish(CommandResult(command_id=order.command_id, success=True, message="once"))
    disk.spool.acknowledge([w.id for w in disk.spool.next(0, after_id=0, limit=10)])

    assert disk.journal.receive(order) == "done"
    assert disk.journal.receive(order) == "done"

    assert [r.message for r in disk.results()] == ["once"]


def test_first_result_stays(disk: Disk) -> None:
    """A command is finished once."""
    order = command("greet")
    disk.journal.receive(order)

    assert disk.journal.finish(CommandResult(command_id=order.command_id, success=True))
    assert not disk.journal.finish(CommandResult(command_id=order.command_id, success=False))


def test_command_begun_before_a_restart_is_failed_unless_idempotent(disk: Disk) -> None:
    """Whether it took effect is unknown; only an idempotent handler may run again."""
    begun, again, waiting = command("pay"), command("sync"), command("pay")
    for order in (begun, again, waiting):
        disk.journal.receive(order)
    disk.journal.start(begun.command_id)
    disk.journal.start(again.command_id)
    disk.restart()

    left = disk.journal.recover(lambda name: name == "sync", now())

    assert {(u.delivery.command_id, u.started) for u in left} == {
        (again.command_id, True),
        (waiting.command_id, False),
    }
    (failed,) = disk.results()
    assert (failed.command_id, failed.success, failed.message) == (
        begun.command_id,
        False,
        INTERRUPTED,
    )


def test_cancelled_command_cannot_be_started(disk: Disk) -> None:
    order = command("greet")
    disk.journal.receive(order)

    assert disk.journal.cancel(order.command_id)
    disk.restart()

    assert not disk.journal.start(order.command_id)
    assert disk.journal.receive(order) == "cancelled"


def test_expired_commands_are_forgotten_once_they_owe_nothing(disk: Disk) -> None:
    """The journal stays small, but a result that waits keeps its entry."""
    order = command("greet", expires_in=-2)
    disk.journal.receive(order)
    disk.journal.finish(CommandResult(command_id=order.command_id, success=True))
    later = now() + timedelta(hours=2)

    assert disk.journal.forget_expired(later) == 0
    disk.spool.acknowledge([w.id for w in disk.spool.next(0, after_id=0, limit=10)])
    assert disk.journal.forget_expired(now()) == 0
    assert disk.journal.forget_expired(later) == 1
