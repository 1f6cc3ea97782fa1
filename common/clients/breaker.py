"""A circuit breaker: a service that only fails is left alone for a moment. Pure: the clock is injected."""

import time
from collections.abc import Callable

from common.errors import CircuitOpen


class CircuitBreaker:
    """Closed, open or half-open, after Michael Nygard's "Release It!".

    ``failures_max`` failures in a row open it. ``open_s`` seconds later it is half-open: one call goes through as a
    probe, and its outcome closes or opens the breaker again.

    Every admitted call must report back once, with its ticket. A ticket from before the last change of state says
    nothing about the service as it is now, and is ignored.
    """

    def __init__(
        self,
        *,
        failures_max: int = 10,
        open_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures_max = failures_max
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._is_probing = False
        self._ticket = 0

    @property
    def is_open(self) -> bool:
        """Whether calls are kept away now; half-open counts as open."""
        return self._open_until is not None

    def admit(self) -> int:
        """Let a call through and return its ticket. Raises CircuitOpen."""
        if self._open_until is not None:
            left_s = self._open_until - self._clock()
            if left_s > 0 or self._is_probing:
                raise CircuitOpen(retry_after_s=max(left_s, 0.0))
            self._is_probing = True
            self._ticket += 1
        return self._ticket

    def succeeded(self, ticket: int) -> None:
        """The service answered, if only to refuse."""
        if ticket == self._ticket:
            self._failures = 0
            if self._open_until is not None:
                self._change_state(open_until=None)

    def failed(self, ticket: int) -> None:
        """The service did not answer, or could not do its work."""
        if ticket == self._ticket:
            self._failures += 1
            if self._is_probing or self._failures >= self._failures_max:
                self._change_state(open_until=self._clock() + self._open_s)

    def abandoned(self, ticket: int) -> None:
        """The call ended without saying anything about the service: it was cancelled, or in too much of a hurry."""
        if ticket == self._ticket:
            self._is_probing = False

    def _change_state(self, open_until: float | None) -> None:
        self._open_until = open_until
        self._failures = 0
        self._is_probing = False
        self._ticket += 1
