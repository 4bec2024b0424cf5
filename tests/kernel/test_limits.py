"""Budgets: never more than the limit, nothing charged by a refusal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.kernel.ratelimit import limiter as limiter_module
from spotplane_server.kernel.ratelimit.limiter import Layer, LocalRateLimiter, RateLimitExceeded

STEPS = st.lists(
    st.one_of(st.floats(0, 0.5), st.floats(0, 70), st.sampled_from([0.0, 0.25, 59.75, 60.0])),
    min_size=1,
    max_size=200,
)


def refused_for(limiter: LocalRateLimiter, layers: list[Layer], now: float) -> float | None:
    """Seconds that a call is sent away for; None when it gets in."""
    try:
        limiter_module.check(layers, limiter.decide(layers, now), now)
    except RateLimitExceeded as err:
        return err.retry_after_seconds
    return None


def admitted(limiter: LocalRateLimiter, layers: list[Layer], now: float) -> bool:
    """Whether a call gets in."""
    return refused_for(limiter, layers, now) is None


@given(steps=STEPS, limit=st.integers(1, 5), start=st.floats(1.7e9, 1.8e9))
def test_no_sixty_seconds_hold_more_admissions_than_the_limit(
    steps: list[float], limit: int, start: float
) -> None:
    """However calls are spaced, also on the borders of the counting steps."""
    limiter, now, times = LocalRateLimiter(), start, []
    for step in steps:
        now += step
        if admitted(limiter, [Layer("RATE_LIMIT_REQUESTS", "k", limit)], now):
            times.append(now)
    for first, later in zip(times, times[limit:], strict=False):
        assert later - first >= limiter_module.WINDOW_SECONDS


@given(steps=STEPS, limit=st.integers(1, 5))
def test_a_refused_caller_gets_in_when_it_was_told_to_come_back(
    steps: list[float], limit: int
) -> None:
    """The delay is at least a second, and long enough."""
    limiter, now = LocalRateLimiter(), 1.75e9
    layers = [Layer("RATE_LIMIT_REQUESTS", "k", limit)]
    for step in steps:
        now += step
        delay = refused_for(limiter, layers, now)
        if delay:
            assert 1 <= delay <= limiter_module.WINDOW_SECONDS + limiter_module.STEP_SECONDS
            now += delay
            assert admitted(limiter, layers, now)


def test_a_refused_call_is_charged_nowhere() -> None:
    """The wide layer keeps what the narrow one refused."""
    limiter = LocalRateLimiter()
    narrow, wide = Layer("RATE_LIMIT_REQUESTS", "k", 1), Layer("TENANT_LIMIT", "t", 2)
    assert admitted(limiter, [narrow, wide], 0)
    for _ in range(5):
        assert not admitted(limiter, [wide, narrow], 1)
    assert admitted(limiter, [wide], 1)
    assert not admitted(limiter, [wide], 1)


def test_headers_speak_of_the_layer_with_the_least_left() -> None:
    """Limit, what remains after this call, and when it grows again."""
    layers = [Layer("RATE_LIMIT_REQUESTS", "k", 60), Layer("TENANT_LIMIT", "t", 5)]

    assert limiter_module.headers(layers, LocalRateLimiter().decide(layers, 1000.0)) == {
        "x-ratelimit-limit": "5",
        "x-ratelimit-remaining": "4",
        "x-ratelimit-reset": "1061",
    }


def test_the_window_that_is_forgotten_is_the_one_unused_for_longest() -> None:
    """A busy key cannot win a fresh budget by many others passing by."""
    limiter, busy = LocalRateLimiter(max_windows=10), [Layer("RATE_LIMIT_REQUESTS", "busy", 1)]
    assert admitted(limiter, busy, 0)
    for number in range(50):
        assert admitted(limiter, [Layer("RATE_LIMIT_REQUESTS", f"k{number}", 1)], 1)
        assert not admitted(limiter, busy, 1)


def test_a_permit_is_free_again_once_it_is_given_back() -> None:
    """The third of two is refused, and admitted after one release."""
    limiter, layers = LocalRateLimiter(), [Layer("CONCURRENCY_LIMIT", "k", 2, counts="running")]
    permit = limiter.permit(layers)
    assert permit is not None
    assert admitted(limiter, layers, 0)
    assert admitted(limiter, layers, 0)
    assert refused_for(limiter, layers, 0) == 1
    limiter.leave(permit)
    assert admitted(limiter, layers, 0)


async def test_tokens_are_charged_when_they_are_known() -> None:
    """A call needs a sum below the limit, and comes back when enough of it has left the window."""
    limiter = LocalRateLimiter()
    layers = [Layer("RATE_LIMIT_TOKENS", "k", 100, counts="tokens")]
    assert all(admitted(limiter, layers, 0) for _ in range(500))
    await limiter.spend({"k": 60}, 10)
    assert admitted(limiter, layers, 10)
    await limiter.spend({"k": 70}, 30)
    assert refused_for(limiter, layers, 30) == 40.25
    assert admitted(limiter, layers, 70.25)


def test_a_day_is_a_window_too() -> None:
    """In steps of six minutes."""
    limiter = LocalRateLimiter()
    layer = Layer("ENVIRONMENT_LIMIT", "day:e", 1, limiter_module.DAY_SECONDS)
    assert admitted(limiter, [layer], 0)
    assert refused_for(limiter, [layer], 86_000) == 760
    assert admitted(limiter, [layer], 86_760)


def test_the_threshold_is_reached_once_in_a_window() -> None:
    """At 80 %, however often the sliding window crosses it."""
    limiter, layers = LocalRateLimiter(), [Layer("RATE_LIMIT_REQUESTS", "k", 10)]

    def reached(now: float) -> bool:
        return limiter.decide(layers, now).standings[0].reached

    assert [reached(second) for second in range(10)] == [False] * 7 + [True, False, False]
    assert [reached(62 + second) for second in range(6)] == [False] * 5 + [True]
