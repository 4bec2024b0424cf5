"""Exponential backoff with full jitter."""

from collections.abc import Callable
from dataclasses import dataclass


def full_jitter_seconds(attempt: int, random: float, *, base: float, cap: float) -> float:
    """Return the wait after failed attempt ``attempt``, with full jitter.

    Args:
        attempt: Attempts that failed in a row, >= 1.
        random: Uniform random number in [0, 1).
        base: Ceiling after the first failure, seconds, above 0.
        cap: Highest ceiling, seconds, at least ``base``.

    Returns:
        Seconds in [0, min(cap, base * 2 ** (attempt - 1))).

    Raises:
        ValueError: An argument is outside its range.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (full jitter).
    """
    if attempt < 1 or not 0 <= random < 1 or not 0 < base <= cap:
        raise ValueError(f"attempt {attempt}, random {random}, base {base}, cap {cap}")
    # The exponent is bounded, since an agent may fail for weeks and 2.0 ** 1024 overflows.
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 64))
    return random * ceiling


@dataclass(frozen=True, slots=True)
class Pace:
    """Base and cap of one kind of retry, in seconds."""

    base: float
    cap: float

    def wait_seconds(self, attempt: int, random: Callable[[], float]) -> float:
        """Return the wait after ``attempt`` failures in a row; see ``full_jitter_seconds``."""
        return full_jitter_seconds(attempt, random(), base=self.base, cap=self.cap)
