"""The queue on disk."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1.usage_pb2 import UsageRecord
from spotplane_agents.errors import SpoolFull, StateInUse, StateUnavailable
from spotplane_agents.spool import Spool, SpoolLimits
from spotplane_agents.state import FILE_NAME, State


def usage(request_id: str) -> pb.Report:
    return pb.Report(usage=pb.UsageReport(records=[UsageRecord(request_id=request_id)]))


def prices() -> pb.Report:
    return pb.Report(prices=pb.PriceReport(region="us-east-1"))


def result(command_id: str) -> pb.Report:
    return pb.Report(command_result=pb.CommandResult(command_id=command_id))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path)
    yield state
    state.close()


def names(spool: Spool, lane: int) -> list[str]:
    waiting = spool.next(lane, after_id=0, limit=100)
    if lane == 0:
        return [w.report.command_result.command_id for w in waiting]
    return [r.request_id for w in waiting for r in w.report.usage.records]


def test_reports_survive_the_process_in_their_order(tmp_path: Path) -> None:
    first = State(tmp_path)
    for name in ("a", "b", "c"):
        Spool(first).append(usage(name))
    first.close()

    second = State(tmp_path)
    assert names(Spool(second), 1) == ["a", "b", "c"]
    second.close()


def test_acknowledged_reports_are_gone_and_others_stay(state: State) -> None:
    """An acknowledgement deletes its report only, and may be repeated."""
    spool = Spool(state)
    ids = [spool.append(usage(name)) for name in ("a", "b", "c")]

    spool.acknowledge([ids[1]])
    spool.acknowledge([ids[1]])

    assert names(spool, 1) == ["a", "c"]


def test_next_goes_on_after_what_was_sent(state: State) -> None:
    spool = Spool(state)
    ids = [spool.append(usage(name)) for name in ("a", "b", "c")]

    waiting = spool.next(1, after_id=ids[0], limit=1)

    assert [w.id for w in waiting] == [ids[1]]


def test_full_spool_drops_the_oldest_usage_and_counts_it(state: State) -> None:
    """Newer usage is worth more than older usage."""
    spool = Spool(state, SpoolLimits(max_count=2))
    for name in ("a", "b", "c"):
        spool.append(usage(name))

    assert names(spool, 1) == ["b", "c"]
    assert spool.dropped() == {"usage": 1}


def test_command_result_takes_the_place_of_usage(state: State) -> None:
    """Usage and prices make room for everything else."""
    spool = Spool(state, SpoolLimits(max_count=2))
    spool.append(prices())
    spool.append(usage("a"))

    spool.append(result("r1"))
    spool.append(result("r2"))

    assert names(spool, 0) == ["r1", "r2"]
    assert spool.dropped() == {"prices": 1, "usage": 1}


def test_usage_is_refused_when_only_results_wait(state: State) -> None:
    """Nothing that must not be lost makes room for usage."""
    spool = Spool(state, SpoolLimits(max_count=2))
    spool.append(result("r1"))
    spool.append(result("r2"))

    with pytest.raises(SpoolFull):
        spool.append(usage("a"))

    spool.append(result("r3"))
    assert names(spool, 0) == ["r1", "r2", "r3"]


def test_bytes_are_bounded_too(state: State) -> None:
    """A few large reports fill the spool as many small ones do."""
    size = len(usage("a" * 1000).SerializeToString())
    spool = Spool(state, SpoolLimits(max_count=100, max_bytes=3 * size))
    for letter in "abcde":
        spool.append(usage(letter * 1000))

    assert spool.size() == (3, 3 * size)


@settings(max_examples=40, deadline=None)
@given(kinds=st.lists(st.sampled_from(["usage", "prices", "command_result"]), max_size=40))
def test_spool_is_bounded_and_loses_no_result(kinds: list[str]) -> None:
    """Count never passes twice the limit; results are all there; usage within the limit."""
    with TemporaryDirectory() as directory:
        state = State(Path(directory))
        spool = Spool(state, SpoolLimits(max_count=8))
        kept = 0
        for number, kind in enumerate(kinds):
            try:
                spool.append(
                    {"usage": usage, "command_result": result}.get(kind, _price)(str(number))
                )
                kept += kind == "command_result"
            except SpoolFull:
                assert kept >= (16 if kind == "command_result" else 8)
        assert len(names(spool, 0)) == kept
        assert spool.size()[0] <= max(8, kept)
        state.close()


def _price(_: str) -> pb.Report:
    return prices()


def test_second_agent_may_not_use_the_directory(tmp_path: Path) -> None:
    """Two processes with one journal would both carry out its commands."""
    state = State(tmp_path)

    with pytest.raises(StateInUse):
        State(tmp_path)
    state.close()
    State(tmp_path).close()


def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The operator learns which path is at fault."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StateUnavailable, match="file"):
        State(tmp_path / "file" / "below")


def test_copied_disk_keeps_usage_and_forgets_the_other_instance(state: State) -> None:
    """An image of a running agent must not carry out that agent's commands."""
    spool = Spool(state)
    state.adopt("i-1")
    spool.append(usage("a"))
    spool.append(result("r1"))

    assert state.adopt("i-2")

    assert names(spool, 0) == []
    assert names(spool, 1) == ["a"]
    assert not state.adopt("i-2")


def test_file_of_an_older_version_is_taken_over(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / FILE_NAME)
    old.execute(
        "CREATE TABLE report (id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL,"
        " kind TEXT NOT NULL, body BLOB NOT NULL, size INTEGER NOT NULL)"
    )
    gone = pb.TerminationReport(instance_id="i-1", terminated_at=Timestamp(seconds=1))
    waiting = pb.Report(termination=gone)
    body = waiting.SerializeToString()
    old.execute(
        "INSERT INTO report (lane, kind, body, size) VALUES (0, 'termination', ?, ?)",
        (body, len(body)),
    )
    old.commit()
    old.close()

    state = State(tmp_path)
    try:
        spool = Spool(state)
        spool.set_shift(timedelta(minutes=5))
        assert [s.report for s in spool.next(0, after_id=0, limit=10)] == [waiting]
    finally:
        state.close()
