"""Small facts an agent tells about its instance."""

from pathlib import Path

import pytest
from spotplane_agents.host import HostLoad, Load
from spotplane_agents.identity import split_pool_id


def write(proc: Path, idle: int, busy: int) -> None:
    (proc / "stat").write_text(f"cpu {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n")


def test_load_is_that_since_the_last_heartbeat(tmp_path: Path) -> None:
    load = HostLoad(tmp_path)
    write(tmp_path, idle=100, busy=900)
    assert load() == Load(None, 75.0)

    write(tmp_path, idle=175, busy=925)
    assert load() == Load(25.0, 75.0)


def test_machine_without_proc_has_no_load(tmp_path: Path) -> None:
    """Heartbeats then go without it."""
    assert HostLoad(tmp_path)() == Load()


def test_pool_id_is_split_at_its_last_dot() -> None:
    """Types contain dots, zones do not."""
    assert split_pool_id("g5.xlarge.us-east-1a") == ("g5.xlarge", "us-east-1a")


@pytest.mark.parametrize("pool_id", ["", "g5", ".us-east-1a", "g5.xlarge."])
def test_incomplete_pool_id_is_refused(pool_id: str) -> None:
    """A launch in a pool without a zone would land anywhere."""
    with pytest.raises(ValueError, match=r"<type>\.<zone>"):
        split_pool_id(pool_id)
