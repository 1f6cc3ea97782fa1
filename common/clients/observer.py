"""What may be known about the calls of a client, to measure them by whatever means."""

from typing import Protocol


class Observer(Protocol):
    """Is told of every attempt, in the event loop of the client; what it raises ends the call."""

    def attempted(self, outcome: str, seconds: float) -> None:
        """An attempt took so long and came to ``ok``, or to the ``code`` of an error of ``common.errors``.

        An attempt that its caller cancelled came to nothing, and is not told.
        """

    def breaker(self, *, is_open: bool) -> None:
        """The circuit breaker has opened, or closed."""
