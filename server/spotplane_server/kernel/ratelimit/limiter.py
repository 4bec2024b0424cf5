"""Rate limiter: windows and permits, all checked in order before any is charged.

`LocalRateLimiter` keeps them in this process; `redis_limiter` keeps them for all servers.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from spotplane_server.kernel.errors import Exhausted

WINDOW_SECONDS: Final = 60.0
# A window is counted in so many steps; a step counts until all of it has left the window, so the
# window can only admit less than its limit by one step, never more.
STEPS: Final = 240
STEP_SECONDS: Final = WINDOW_SECONDS / STEPS
DAY_SECONDS: Final = 86_400.0
# Keys of windows that are a day wide begin with it.
DAY_PREFIX: Final = "day:"
MAX_WINDOWS: Final = 100_000
# Of its limit: where a tenant is told that a window fills up.
THRESHOLD: Final = 0.8

_MESSAGES: Final = {
    "RATE_LIMIT_REQUESTS": "the API key's requests per minute are used up",
    "RATE_LIMIT_TOKENS": "the API key's tokens per minute are used up",
    "ENVIRONMENT_LIMIT": "the environment's budget is used up",
    "TENANT_LIMIT": "the tenant's requests per minute are used up",
    "ADMIN_RATE_LIMIT": "the administrator credential's requests per minute are used up",
    "RATE_LIMIT_EXCEEDED": "too many calls in a short time",
    "CONCURRENCY_LIMIT": "the API key's concurrent calls are used up",
}

Counts: TypeAlias = Literal["calls", "tokens", "running"]


class RateLimitExceeded(Exhausted):
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


@dataclass(frozen=True, slots=True)
class Layer:
    """A budget that a call draws on.

    Attributes:
        reason: Of its refusal.
        key: Names the budget among all others.
        limit: Calls or tokens of ``key`` in ``seconds``, or calls that run at once.
        seconds: The window's width.
        counts: ``calls`` are charged when they are admitted; ``tokens`` when they are known, and a
            call needs a sum below the limit; ``running`` is a permit, given back at the call's end.
    """

    reason: str
    key: str
    limit: int
    seconds: float = WINDOW_SECONDS
    counts: Counts = "calls"


class Standing(NamedTuple):
    """How a budget stands once a call was admitted or refused.

    Attributes:
        used: Of its limit.
        frees_at: Unix seconds when less of it is used next; of a full one, when it has room.
        reached: Whether `THRESHOLD` was reached, for the first time in a window's width.
    """

    used: int
    frees_at: float
    reached: bool = False


class RateLimitDecision(NamedTuple):
    """What became of a call.

    Attributes:
        refused: The layer that refused it, counted from 1; 0 when it was admitted.
        standings: One a layer.
    """

    refused: int
    standings: Sequence[Standing]


@dataclass(eq=False, slots=True)
class Permit:
    """Permits of a call that runs, one a key; each name is used once."""

    keys: tuple[str, ...]
    name: str


class RateLimiter(Protocol):
    """Where budgets are kept."""

    def permit(self, layers: Sequence[Layer]) -> Permit | None:
        """A permit to ask for, when one of the layers counts what runs."""
        ...

    async def admit(
        self, layers: Sequence[Layer], permit: Permit | None, now: float
    ) -> RateLimitDecision:
        """Charge all layers, or none.

        Raises:
            LimiterUnavailable: Nobody knows.
        """
        ...

    def leave(self, permit: Permit) -> None:
        """Give back what was admitted; it is free for every call that starts afterwards."""
        ...

    async def spend(self, tokens: Mapping[str, int], now: float) -> None:
        """Charge tokens to windows by key, whatever their limits; fails for nobody."""
        ...


class Window:
    """Counts what was charged in the last ``seconds``, exactly or one step too strictly."""

    __slots__ = ("_quiet_until", "_seconds", "_step", "_steps", "used")

    def __init__(self, seconds: float = WINDOW_SECONDS) -> None:
        self._seconds = seconds
        self._step = seconds / STEPS
        self._steps: deque[list[int]] = deque()
        self._quiet_until = 0.0
        self.used = 0

    def expire(self, now: float) -> None:
        """Forget what has left the window."""
        while self._steps and (self._steps[0][0] + 1) * self._step + self._seconds <= now:
            self.used -= self._steps.popleft()[1]

    def charge(self, now: float, amount: int = 1) -> None:
        """Count something."""
        step = int(now / self._step)
        if self._steps and self._steps[-1][0] >= step:
            self._steps[-1][1] += amount
        else:
            self._steps.append([step, amount])
        self.used += amount

    def frees_at(self, now: float, limit: int | None = None) -> float:
        """When the next step leaves the window, or when less than ``limit`` is used."""
        left, at = self.used, now
        for step, amount in self._steps:
            at = (step + 1) * self._step + self._seconds
            left -= amount
            if limit is None or left < limit:
                break
        return at

    def reached(self, now: float) -> bool:
        """Whether nobody was told of a threshold for a window's width; now somebody is."""
        if now < self._quiet_until:
            return False
        self._quiet_until = now + self._seconds
        return True


class LocalRateLimiter:
    """The windows and permits of this process.

    Args:
        max_windows: Windows to remember at most.
    """

    def __init__(self, *, max_windows: int = MAX_WINDOWS) -> None:
        self._max_windows = max_windows
        self._windows: OrderedDict[str, Window] = OrderedDict()
        self._running: dict[str, int] = {}

    def permit(self, layers: Sequence[Layer]) -> Permit | None:
        """A permit to ask for, when one of the layers counts what runs."""
        keys = tuple([layer.key for layer in layers if layer.counts == "running"])
        return Permit(keys, "") if keys else None

    async def admit(
        self, layers: Sequence[Layer], permit: Permit | None, now: float
    ) -> RateLimitDecision:
        """Charge all layers, or none."""
        return self.decide(layers, now)

    def decide(
        self, layers: Sequence[Layer], now: float, *, charge: bool = True
    ) -> RateLimitDecision:
        """Charge all layers, or none; with ``charge`` off only look."""
        windows: list[Window | None] = []
        refused = 0
        for number, layer in enumerate(layers, 1):
            if layer.counts == "running":
                window, full = None, self._running.get(layer.key, 0) >= layer.limit
            else:
                window = self._found(layer.key, layer.seconds)
                window.expire(now)
                full = window.used >= layer.limit
            windows.append(window)
            if full and not refused:
                refused = number
        charged = charge and not refused
        return RateLimitDecision(
            refused,
            [
                self._settle(layer, window, now, charged)
                for layer, window in zip(layers, windows, strict=True)
            ],
        )

    def leave(self, permit: Permit) -> None:
        """Give a permit back."""
        for key in permit.keys:
            running = self._running[key] - 1
            if running:
                self._running[key] = running
            else:
                del self._running[key]

    async def spend(self, tokens: Mapping[str, int], now: float) -> None:
        """Charge tokens to windows by key, whatever their limits."""
        for key, amount in tokens.items():
            window = self._found(key, seconds_of(key))
            window.expire(now)
            window.charge(now, amount)

    def _settle(self, layer: Layer, window: Window | None, now: float, charged: bool) -> Standing:
        if window is None:
            running = self._running.get(layer.key, 0)
            if charged:
                running = self._running[layer.key] = running + 1
            return Standing(running, now + 1)
        if charged and layer.counts == "calls":
            window.charge(now)
        full = window.used >= layer.limit
        return Standing(
            window.used,
            window.frees_at(now, layer.limit if full else None),
            window.used >= layer.limit * THRESHOLD and window.reached(now),
        )

    def _found(self, key: str, seconds: float) -> Window:
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = Window(seconds)
            if len(self._windows) > self._max_windows:
                self._windows.popitem(last=False)
        else:
            # The one forgotten is the one unused for longest, never one that is being used up.
            self._windows.move_to_end(key)
        return window


def seconds_of(key: str) -> float:
    """The width of a window of tokens, which its key says."""
    return DAY_SECONDS if key.startswith(DAY_PREFIX) else WINDOW_SECONDS


def headers(layers: Sequence[Layer], verdict: RateLimitDecision) -> dict[str, str]:
    """The `x-ratelimit-*` headers: of the layer of requests with the least left."""
    least: tuple[int, Layer, Standing] | None = None
    for layer, standing in zip(layers, verdict.standings, strict=True):
        if layer.counts == "calls":
            left = layer.limit - standing.used
            if least is None or left < least[0]:
                least = left, layer, standing
    if least is None:
        return {}
    return {
        "x-ratelimit-limit": str(least[1].limit),
        "x-ratelimit-remaining": str(max(0, least[0])),
        "x-ratelimit-reset": str(math.ceil(least[2].frees_at)),
    }


def check(layers: Sequence[Layer], verdict: RateLimitDecision, now: float) -> None:
    """Let an admitted call pass.

    Raises:
        LimitReached: It was refused.
    """
    if verdict.refused:
        layer, standing = layers[verdict.refused - 1], verdict.standings[verdict.refused - 1]
        raise RateLimitExceeded(
            layer.reason, standing.frees_at - now, layer.limit, headers(layers, verdict)
        )
