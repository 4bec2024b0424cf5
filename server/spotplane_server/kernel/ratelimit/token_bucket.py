"""Token bucket: limits one message source in constant memory."""

from __future__ import annotations


class TokenBucket:
    """Allows a burst, and a rate after it.

    Args:
        rate: Tokens per second.
        burst: Most tokens; there are as many at first.
        now: Seconds of a monotonic clock.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> float:
        """Take a token, on credit if there is none; return the seconds until it is there."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._tokens / self._rate)
