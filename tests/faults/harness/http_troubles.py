"""Troubles of an HTTP link that are about whole requests: sent twice, or held back and released when it is too late."""

import asyncio
import random
import re
from collections.abc import Collection

from tests.faults.harness.pipes import Pipe
from tests.faults.harness.proxy import Proxy, Trouble

_METHODS = (b"GET ", b"POST ", b"PATCH ", b"PUT ", b"DELETE ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ORDER_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


class WholeRequests(Trouble):
    """Gathers the bytes of a request until it is whole. Our clients wait for a reply before they send the next one."""

    proxy: Proxy

    def __init__(self) -> None:
        super().__init__()
        self._partial: dict[Pipe, bytes] = {}

    def imposed(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def on_request(self, pipe: Pipe, data: bytes) -> None:
        so_far = self._partial.pop(pipe, b"") + data
        if not so_far.startswith(_METHODS):
            # The rest of a request that began before this trouble did.
            pipe.upstream.send(so_far)
        elif is_whole(so_far):
            self.on_whole_request(pipe, so_far)
        else:
            self._partial[pipe] = so_far

    def on_whole_request(self, pipe: Pipe, request: bytes) -> None:
        """One request, from its first byte to its last."""
        raise NotImplementedError

    def on_closed(self, pipe: Pipe) -> None:
        self._partial.pop(pipe, None)

    def lifted(self) -> None:
        for pipe, data in self._partial.items():
            pipe.upstream.send(data)
        self._partial.clear()


class Duplicates(WholeRequests):
    """Each request arrives twice, the second time on another connection; the reply to that one is thrown away.

    Half of the copies come at the same time, the others up to ``late_s`` seconds later.
    """

    def __init__(self, rng: random.Random, late_s: float) -> None:
        super().__init__()
        self._rng = rng
        self._late_s = late_s
        self._copies: set[asyncio.Task[None]] = set()

    def on_whole_request(self, pipe: Pipe, request: bytes) -> None:
        pipe.upstream.send(request)
        if not request.startswith(b"GET "):
            delay_s = self._rng.choice((0.0, self._rng.uniform(0, self._late_s)))
            copy = asyncio.get_running_loop().create_task(self._send(request, delay_s))
            self._copies.add(copy)
            copy.add_done_callback(self._copies.discard)

    async def _send(self, request: bytes, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if await self.proxy.send_aside(request):
            self.hits += 1


class HoldBack(WholeRequests):
    """Holds back the next request to one of ``paths``, and later ones about one order of it, its *victim*.

    What is held goes upstream on a new connection when :meth:`release` is called, or when the trouble is lifted.
    ``undone`` counts the requests to one of ``undo_paths`` about the victim that were answered in the meantime.
    """

    def __init__(self, rng: random.Random, paths: Collection[str], undo_paths: Collection[str]) -> None:
        super().__init__()
        self._rng = rng
        self._paths = tuple(f"{path} ".encode() for path in paths)
        self._undo_paths = tuple(path.encode() for path in undo_paths)
        self._held: list[tuple[Pipe, bytes]] = []
        self._undoing: set[Pipe] = set()
        self.victim: str | None = None
        self.undone = 0

    @property
    def callers_left(self) -> int:
        """How many callers still wait for a reply to what is held."""
        return sum(not pipe.is_closed for pipe, _ in self._held)

    def on_whole_request(self, pipe: Pipe, request: bytes) -> None:
        if self._is_to_be_held(request):
            self._held.append((pipe, request))
            return
        if self._is_about_victim(request) and request.startswith(self._undo_paths):
            self._undoing.add(pipe)
        pipe.upstream.send(request)

    def on_reply(self, pipe: Pipe, data: bytes) -> None:
        super().on_reply(pipe, data)
        if pipe in self._undoing:
            self._undoing.discard(pipe)
            self.undone += 1

    async def release(self) -> None:
        """Send upstream what is held; its callers, should they still wait, are cut off."""
        held, self._held = self._held, []
        for pipe, request in held:
            pipe.reset()
            if await self.proxy.send_aside(request):
                self.hits += 1

    def lifted(self) -> None:
        super().lifted()
        for pipe, request in self._held:
            pipe.upstream.send(request)

    def _is_to_be_held(self, request: bytes) -> bool:
        if not request.startswith(self._paths):
            return False
        # Not in the head, which has ids of requests.
        if self.victim is None and (order_ids := _ORDER_ID.findall(request.partition(b"\r\n\r\n")[2])):
            self.victim = self._rng.choice(order_ids).decode()
        return self._is_about_victim(request)

    def _is_about_victim(self, request: bytes) -> bool:
        return self.victim is not None and self.victim.encode() in request


def is_whole(request: bytes) -> bool:
    """Whether bytes that begin with a request hold all of it. A request without a length has no body."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)
