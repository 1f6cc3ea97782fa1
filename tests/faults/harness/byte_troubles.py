"""Troubles of a link that need no more than bytes; a database link can have them as well as an HTTP link."""

import random

from tests.faults.harness.pipes import End, Pipe
from tests.faults.harness.proxy import Trouble


class Latency(Trouble):
    """Everything takes ``seconds`` longer, give or take a half, in each direction."""

    def __init__(self, rng: random.Random, seconds: float) -> None:
        super().__init__()
        self._rng = rng
        self._seconds = seconds

    def on_request(self, pipe: Pipe, data: bytes) -> None:
        self._send(pipe.upstream, data)

    def on_reply(self, pipe: Pipe, data: bytes) -> None:
        self._send(pipe.client, data)

    def _send(self, end: End, data: bytes) -> None:
        self.hits += 1
        end.send(data, self._seconds * self._rng.uniform(0.5, 1.5))


class Refusal(Trouble):
    """Nobody listens, and who was connected is cut off."""

    refuses = True


class Stall(Trouble):
    """Nothing gets through; afterwards all of it arrives at once."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[tuple[End, bytes]] = []

    def on_request(self, pipe: Pipe, data: bytes) -> None:
        self._hold(pipe.upstream, data)

    def on_reply(self, pipe: Pipe, data: bytes) -> None:
        self._hold(pipe.client, data)

    def lifted(self) -> None:
        for end, data in self._held:
            end.send(data)

    def _hold(self, end: End, data: bytes) -> None:
        self.hits += 1
        self._held.append((end, data))


class _SomeReplies(Trouble):
    """Something happens to a ``share`` of the replies."""

    def __init__(self, rng: random.Random, share: float) -> None:
        super().__init__()
        self._rng = rng
        self._share = share

    def on_reply(self, pipe: Pipe, data: bytes) -> None:
        if self._rng.random() < self._share:
            self.hits += 1
            self._spoil(pipe, data)
        else:
            pipe.client.send(data)

    def _spoil(self, pipe: Pipe, data: bytes) -> None:
        raise NotImplementedError


class ResetInReply(_SomeReplies):
    """Half of the reply, then a reset."""

    def _spoil(self, pipe: Pipe, data: bytes) -> None:
        pipe.client.send(data[: len(data) // 2])
        pipe.reset()


class HalfThenSilence(_SomeReplies):
    """Half of the reply, then nothing, on a connection that stays open."""

    def _spoil(self, pipe: Pipe, data: bytes) -> None:
        pipe.client.send(data[: len(data) // 2])
        pipe.is_silent = True


class LostReply(_SomeReplies):
    """The request went through; of the reply nothing arrives. Half of the connections break, half are silent."""

    def _spoil(self, pipe: Pipe, data: bytes) -> None:
        if self._rng.random() < 0.5:
            pipe.reset()
        else:
            pipe.is_silent = True
