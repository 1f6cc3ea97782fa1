"""When to try again, and after how long. Pure: no clock, no I/O."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """How a client retries calls that bear being repeated.

    ``RetryPolicy(attempts_max=1)`` switches retries off.
    """

    attempts_max: int = 4
    """Attempts a call makes at the most, the first one included."""
    attempt_timeout_s: float = 12.0
    """Seconds an attempt may take, so that a connection gone silent leaves time for another one.

    Longer than the 10 seconds after which the order service answers a checkout that still goes on.
    """
    backoff_base_s: float = 0.05
    backoff_max_s: float = 1.0
    """Seconds: the wait before attempt n + 1 is random, up to ``base * 2**(n - 1)``, and never above ``max``."""
    budget_ratio: float = 0.1
    """Retries earned by a call: 0.1 allows a tenth more requests than calls, so retries cannot feed an outage."""
    budget_burst: int = 20
    """Retries that a client may save up, and starts with."""

    def __post_init__(self) -> None:
        if self.attempts_max < 1 or self.attempt_timeout_s <= 0:
            raise ValueError("attempts_max must be at least 1 and attempt_timeout_s above 0")
        if min(self.backoff_base_s, self.backoff_max_s, self.budget_ratio, self.budget_burst) < 0:
            raise ValueError("backoff and budget must not be negative")

    def wait_s(
        self,
        attempt: int,
        retry_after_s: float | None = None,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> float:
        """Seconds to wait after ``attempt`` (1 is the first) failed.

        "Full jitter" of the AWS Architecture Blog's "Exponential Backoff And Jitter", on top of what the server
        asked for with ``Retry-After``: everybody who was told "1 second" must not come back at the same moment.
        """
        # 2.0**1024 raises OverflowError; the cap decides long before.
        ceiling = min(self.backoff_max_s, self.backoff_base_s * 2.0 ** min(attempt - 1, 1000))
        return (retry_after_s or 0.0) + uniform(0.0, ceiling)


class RetryBudget:
    """A token bucket: every call pays in ``ratio`` of a token, every retry takes one.

    As in Finagle's ``RetryBudget`` and "Handling Overload" in Google's SRE book: while a service is down each client
    sends little more than its usual load, instead of a multiple of it.
    """

    def __init__(self, ratio: float, burst: int) -> None:
        self._ratio = ratio
        self._burst = float(burst)
        self._tokens = float(burst)

    def deposit(self) -> None:
        """Count a call."""
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Take a retry; ``False`` when there is none left."""
        # A tenth ten times over is slightly less than one in floating point.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True
