"""How long retries wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_agents.backoff import full_jitter_seconds

DRAWS = st.floats(0, 1, exclude_max=True)


@given(attempt=st.integers(1, 10_000), draw=DRAWS)
def test_wait_stays_below_the_ceiling_of_its_attempt(attempt: int, draw: float) -> None:
    """The ceiling doubles from the base and stops at the cap, however long an outage lasts."""
    wait = full_jitter_seconds(attempt, draw, base=1.0, cap=30.0)

    assert 0 <= wait <= min(30.0, 2.0 ** min(attempt - 1, 100))


@given(attempt=st.integers(1, 100), low=DRAWS, high=DRAWS)
def test_wait_grows_with_the_draw(attempt: int, low: float, high: float) -> None:
    """Uniform draws give uniform waits, so that agents spread over the whole interval."""
    waits = [full_jitter_seconds(attempt, d, base=1.0, cap=30.0) for d in sorted((low, high))]

    assert waits == sorted(waits)


@pytest.mark.parametrize(
    ("attempt", "draw", "base", "cap"), [(0, 0.5, 1, 30), (1, 1.0, 1, 30), (1, 0.5, 2, 1)]
)
def test_arguments_outside_their_range_are_refused(
    attempt: int, draw: float, base: float, cap: float
) -> None:
    """A wrong argument is a programming error, not a wait."""
    with pytest.raises(ValueError, match="attempt"):
        full_jitter_seconds(attempt, draw, base=base, cap=cap)
