import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clients.retry import RetryBudget, RetryPolicy

seconds = st.floats(min_value=0, max_value=1000)


@given(attempt=st.integers(1, 1000), base=seconds, cap=seconds, asked=st.none() | seconds)
def test_the_wait_is_random_below_a_doubling_and_capped_ceiling(
    attempt: int, base: float, cap: float, asked: float | None
) -> None:
    """Full jitter draws from 0 to min(cap, base * 2**(attempt - 1)), on top of what the server asked for."""
    policy = RetryPolicy(backoff_base_s=base, backoff_max_s=cap)
    ceiling = min(cap, base * 2 ** (attempt - 1))

    shortest = policy.wait_s(attempt, asked, uniform=lambda low, high: low)
    longest = policy.wait_s(attempt, asked, uniform=lambda low, high: high)

    assert shortest == (asked or 0)
    assert longest == pytest.approx((asked or 0) + ceiling)


def test_no_number_of_attempts_overflows() -> None:
    """The wait of the hundred-thousandth attempt is the cap, not an OverflowError."""
    assert RetryPolicy(backoff_max_s=2).wait_s(100_000, uniform=lambda low, high: high) == 2


def test_waits_of_two_clients_differ() -> None:
    """Clients that failed together do not come back together, not even when told the same Retry-After."""
    waits = {RetryPolicy().wait_s(3, retry_after_s=1.0) for _ in range(100)}

    assert len(waits) == 100
    assert all(wait >= 1.0 for wait in waits)


@given(
    ratio=st.floats(min_value=0, max_value=1),
    burst=st.integers(0, 20),
    steps=st.lists(st.booleans(), max_size=300),
)
def test_retries_never_exceed_the_burst_and_a_share_of_the_calls(ratio: float, burst: int, steps: list[bool]) -> None:
    """However calls and retries interleave, there are at most burst + ratio * calls retries."""
    budget = RetryBudget(ratio, burst)
    calls = retries = 0

    for is_call in steps:
        if is_call:
            budget.deposit()
            calls += 1
        else:
            retries += budget.withdraw()

    assert retries <= burst + ratio * calls + 1e-6


def test_ten_calls_earn_a_retry_at_a_ratio_of_a_tenth() -> None:
    """The tenth call makes the token whole, in spite of floating point."""
    budget = RetryBudget(ratio=0.1, burst=1)
    assert budget.withdraw()

    earned = []
    for _ in range(10):
        earned.append(budget.withdraw())
        budget.deposit()

    assert earned == [False] * 10
    assert budget.withdraw()


def test_the_budget_saves_up_no_more_than_its_burst() -> None:
    """A long quiet time does not buy a retry storm."""
    budget = RetryBudget(ratio=0.5, burst=3)
    for _ in range(1000):
        budget.deposit()

    assert [budget.withdraw() for _ in range(5)] == [True, True, True, False, False]


@pytest.mark.parametrize(
    "knobs", [{"attempts_max": 0}, {"attempt_timeout_s": 0}, {"backoff_base_s": -1}, {"budget_ratio": -0.1}]
)
def test_a_policy_that_makes_no_sense_is_refused(knobs: dict[str, float]) -> None:
    """A wrong knob fails where it is set, not in the first outage."""
    with pytest.raises(ValueError, match="must"):
        RetryPolicy(**knobs)  # type: ignore[arg-type]
