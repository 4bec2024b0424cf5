"""Request budgets: sliding windows and concurrency, checked together before any is charged.

The windows live in this process. With several server processes the budget holds per process.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from spotplane_server.kernel.errors import Exhausted

WINDOW_SECONDS: Final = 60.0
# Admissions are counted in steps of this width; a step counts until all of it has left the window,
# so the window can only admit less than its limit by one step, never more.
STEP_SECONDS: Final = 0.25
MAX_WINDOWS: Final = 100_000

_MESSAGES: Final = {
    "RATE_LIMIT_REQUESTS": "the API key's requests per minute are used up",
    "ENVIRONMENT_LIMIT": "the environment's requests per minute are used up",
    "TENANT_LIMIT": "the tenant's requests per minute are used up",
    "ADMIN_RATE_LIMIT": "the administrator credential's requests per minute are used up",
    "RATE_LIMIT_EXCEEDED": "too many calls in a short time",
    "CONCURRENCY_LIMIT": "the API key's concurrent calls are used up",
}


class LimitReached(Exhausted):
    """One layer's budget is used up; nothing was charged anywhere."""

    def __init__(
        self,
        reason: str,
        retry_after_seconds: float,
        limit: int,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            _MESSAGES[reason], retry_after_seconds=max(1.0, retry_after_seconds), limit=str(limit)
        )
        self.headers = headers or {}
        self.reason = reason  # type: ignore[misc]


class Window:
    """Counts admissions of the last ``seconds``, exactly or one step too strictly."""

    __slots__ = ("_seconds", "_steps", "used")

    def __init__(self, seconds: float = WINDOW_SECONDS) -> None:
        self._seconds = seconds
        self._steps: deque[list[int]] = deque()
        self.used = 0

    def expire(self, now: float) -> None:
        """Forget what has left the window."""
        while self._steps and (self._steps[0][0] + 1) * STEP_SECONDS + self._seconds <= now:
            self.used -= self._steps.popleft()[1]

    def charge(self, now: float) -> None:
        """Count one admission."""
        step = int(now / STEP_SECONDS)
        if self._steps and self._steps[-1][0] == step:
            self._steps[-1][1] += 1
        else:
            self._steps.append([step, 1])
        self.used += 1

    def frees_at(self, now: float) -> float:
        """When the next admission leaves the window; ``now`` when it is empty."""
        if not self._steps:
            return now
        return (self._steps[0][0] + 1) * STEP_SECONDS + self._seconds


@dataclass(frozen=True, slots=True)
class Layer:
    """A budget that a call draws on: ``limit`` admissions of ``key`` in ``seconds``."""

    reason: str
    key: str
    limit: int
    seconds: float = WINDOW_SECONDS


class Limiter:
    """The windows and permits of this process.

    Args:
        max_windows: Windows to remember at most.
    """

    def __init__(self, *, max_windows: int = MAX_WINDOWS) -> None:
        self._max_windows = max_windows
        self._windows: OrderedDict[tuple[str, str], Window] = OrderedDict()
        self._running: dict[str, int] = {}

    def admit(self, layers: Sequence[Layer], now: float) -> dict[str, str]:
        """Charge all layers, or none and raise.

        Args:
            layers: At least one.
            now: Unix seconds.

        Returns:
            The `x-ratelimit-*` headers of the layer with the least left.

        Raises:
            LimitReached: A layer is used up.
        """
        windows = self._checked(layers, now)
        for window in windows:
            window.charge(now)
        layer, window = min(
            zip(layers, windows, strict=True), key=lambda pair: pair[0].limit - pair[1].used
        )
        return _headers(layer, window, now)

    def check(self, layer: Layer, now: float) -> None:
        """Charge nothing.

        Raises:
            LimitReached: The layer is used up.
        """
        self._checked([layer], now)

    def _checked(self, layers: Sequence[Layer], now: float) -> list[Window]:
        windows = [self._window(layer) for layer in layers]
        for layer, window in zip(layers, windows, strict=True):
            window.expire(now)
            if window.used >= layer.limit:
                raise LimitReached(
                    layer.reason,
                    window.frees_at(now) - now,
                    layer.limit,
                    _headers(layer, window, now),
                )
        return windows

    def enter(self, key: str, limit: int) -> None:
        """Take one of ``limit`` permits; pair with `leave`.

        Raises:
            LimitReached: All are taken.
        """
        running = self._running.get(key, 0)
        if running >= limit:
            raise LimitReached("CONCURRENCY_LIMIT", 1.0, limit)
        self._running[key] = running + 1

    def leave(self, key: str) -> None:
        """Give a permit back."""
        running = self._running[key] - 1
        if running:
            self._running[key] = running
        else:
            del self._running[key]

    def _window(self, layer: Layer) -> Window:
        key = (layer.reason, layer.key)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = Window(layer.seconds)
            if len(self._windows) > self._max_windows:
                self._windows.popitem(last=False)
        else:
            # The one forgotten is the one unused for longest, never one that is being used up.
            self._windows.move_to_end(key)
        return window


def _headers(layer: Layer, window: Window, now: float) -> dict[str, str]:
    return {
        "x-ratelimit-limit": str(layer.limit),
        "x-ratelimit-remaining": str(max(0, layer.limit - window.used)),
        "x-ratelimit-reset": str(math.ceil(window.frees_at(now))),
    }
