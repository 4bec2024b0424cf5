"""CPU and memory load of this machine, from /proc."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Load:
    """CPU and memory in use, 0..100; None where the machine does not report it."""

    cpu_percent: float | None = None
    memory_percent: float | None = None


class HostLoad:
    """Measures the load since the last measurement. The first one has no CPU figure."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._last: tuple[int, int] | None = None

    def __call__(self) -> Load:
        """Measure now."""
        try:
            return Load(self._cpu(), self._memory())
        except (OSError, ValueError, KeyError, IndexError):
            return Load()

    def _cpu(self) -> float | None:
        line = (self._proc / "stat").read_text().split("\n", 1)[0]
        ticks = [int(field) for field in line.split()[1:9]]
        now = (ticks[3] + ticks[4], sum(ticks))  # idle and iowait; everything
        last, self._last = self._last, now
        if last is None or now[1] <= last[1]:
            return None
        return 100.0 * (1 - (now[0] - last[0]) / (now[1] - last[1]))

    def _memory(self) -> float:
        lines = (self._proc / "meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        total, free = (int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        return 100.0 * (1 - free / total)
