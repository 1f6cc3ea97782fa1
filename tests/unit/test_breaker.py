import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clients.breaker import CircuitBreaker
from common.errors import CircuitOpen


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failures_max=3, open_s=10, clock=clock)


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(breaker.admit())


def test_failures_in_a_row_open_it(breaker: CircuitBreaker, clock: Clock) -> None:
    """After failures_max failures calls are refused at once, with the time after which to come back."""
    fail(breaker, times=3)
    clock.now = 4

    with pytest.raises(CircuitOpen) as caught:
        breaker.admit()

    assert caught.value.retry_after_s == 6
    assert not caught.value.is_refusal


@given(st.lists(st.booleans(), max_size=50))
def test_it_is_open_exactly_after_a_row_of_failures(outcomes: list[bool]) -> None:
    """While no time passes it opens at the first row of failures_max failures, and never before."""
    breaker = CircuitBreaker(failures_max=3, open_s=10, clock=lambda: 0.0)
    row = 0
    for succeeded in outcomes:
        ticket = breaker.admit()
        (breaker.succeeded if succeeded else breaker.failed)(ticket)
        row = 0 if succeeded else row + 1
        assert breaker.is_open == (row == 3)
        if breaker.is_open:
            break


def test_one_probe_goes_through_when_the_time_is_over(breaker: CircuitBreaker, clock: Clock) -> None:
    """Half-open admits a single call; the others are refused until it has reported."""
    fail(breaker, times=3)
    clock.now = 10

    probe = breaker.admit()
    with pytest.raises(CircuitOpen):
        breaker.admit()
    breaker.succeeded(probe)

    assert not breaker.is_open
    assert [breaker.admit() for _ in range(3)]


def test_a_failed_probe_opens_it_again(breaker: CircuitBreaker, clock: Clock) -> None:
    """One failure of a probe is enough, and the full time starts anew."""
    fail(breaker, times=3)
    clock.now = 10
    fail(breaker)

    clock.now = 19.9
    with pytest.raises(CircuitOpen):
        breaker.admit()
    clock.now = 20
    breaker.succeeded(breaker.admit())

    assert not breaker.is_open


def test_a_cancelled_probe_makes_room_for_another(breaker: CircuitBreaker, clock: Clock) -> None:
    """A probe whose caller went away must not keep the breaker half-open for ever."""
    fail(breaker, times=3)
    clock.now = 10

    breaker.abandoned(breaker.admit())
    breaker.succeeded(breaker.admit())

    assert not breaker.is_open


def test_reports_of_earlier_calls_are_ignored(breaker: CircuitBreaker, clock: Clock) -> None:
    """Calls sent before it opened can neither close it, nor fail its probe, nor free the probe's place."""
    early = [breaker.admit() for _ in range(3)]
    fail(breaker, times=3)
    breaker.succeeded(early[0])
    assert breaker.is_open

    clock.now = 10
    probe = breaker.admit()
    breaker.failed(early[1])
    breaker.abandoned(early[2])
    with pytest.raises(CircuitOpen):
        breaker.admit()
    breaker.succeeded(probe)

    assert not breaker.is_open


def test_old_failures_do_not_count_after_it_closed(breaker: CircuitBreaker, clock: Clock) -> None:
    """A breaker that closed starts to count from nothing."""
    fail(breaker, times=3)
    clock.now = 10
    breaker.succeeded(breaker.admit())

    fail(breaker, times=2)

    assert not breaker.is_open
