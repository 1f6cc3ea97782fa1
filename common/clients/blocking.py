"""The synchronous face of the asynchronous clients: the same methods, run on an event loop in a thread of its own."""

import asyncio
import concurrent.futures
import functools
import ssl
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from common.clients.client import DEFAULT_RETRY, AsyncClient
from common.clients.credentials import Credentials
from common.clients.retry import RetryPolicy
from common.errors import ServiceUnavailable

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=AsyncClient)

_STOP_TIMEOUT_S = 5.0


def blocking(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["BlockingClient[Any]", P], R]:
    """The blocking twin of a coroutine method, with the same signature."""

    @functools.wraps(method)
    def call(self: "BlockingClient[Any]", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._thread.run(method(self._client, *args, **kwargs))

    return call


def blocking_iterator(
    method: Callable[Concatenate[C, P], AsyncIterator[R]],
) -> Callable[Concatenate["BlockingClient[Any]", P], Iterator[R]]:
    """The blocking twin of a method that returns an asynchronous iterator, with the same signature."""

    @functools.wraps(method)
    def iterate(self: "BlockingClient[Any]", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return _items(self, method(self._client, *args, **kwargs))

    return iterate


def _items(client: "BlockingClient[Any]", iterator: AsyncIterator[R]) -> Iterator[R]:
    # Holds the client and not only its thread: a client that is garbage closes itself.
    while True:
        try:
            item = client._thread.run(_next(iterator))
        except StopAsyncIteration:
            return
        yield item


async def _next(iterator: AsyncIterator[R]) -> R:
    return await anext(iterator)


class BlockingClient(Generic[C]):
    """A client for code without an event loop. Threads may share it, and a running event loop does not disturb it.

    Use it with ``with``, or call :meth:`close`; one that is forgotten closes itself when it is garbage. Ctrl-C
    cancels the call that it interrupts. The arguments are those of :class:`AsyncClient`.
    """

    async_class: type[C]

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout_s: float = 30.0,
        retry: RetryPolicy = DEFAULT_RETRY,
        token: str | Credentials | None = None,
        tls: ssl.SSLContext | None = None,
        connections_max: int = 512,
        nameserver: str | None = None,
    ) -> None:
        self._client = self.async_class(
            base_url,
            timeout_s=timeout_s,
            retry=retry,
            token=token,
            tls=tls,
            connections_max=connections_max,
            nameserver=nameserver,
        )
        self._thread = _LoopThread(self._client.close)
        self._stop = weakref.finalize(self, self._thread.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what still runs, close the connections and end the thread. Calls after this raise RuntimeError."""
        self._stop()

    ready = blocking(AsyncClient.ready)


class _LoopThread:
    """An event loop in a daemon thread, started by the first call; ``on_stop`` runs in it at the end."""

    def __init__(self, on_stop: Callable[[], Awaitable[None]]) -> None:
        self._on_stop = on_stop
        self._lock = threading.Lock()
        self._is_stopped = False
        self._thread: threading.Thread | None = None
        # With a factory of its own the runner leaves the calling thread's event loop alone.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._stopping = asyncio.Event()

    def run(self, call: Coroutine[Any, Any, R]) -> R:
        """Run ``call`` on the loop and wait for it."""
        future = self._submit(call)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ServiceUnavailable("The client was closed during the call.") from None
        except BaseException:
            # KeyboardInterrupt, above all: what nobody waits for any more must not go on in the background.
            future.cancel()
            raise
        finally:
            # The error's traceback has this frame, and the future the error: without the cycle a forgotten client
            # is garbage at once, and not when the collector comes by.
            del future

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            thread = self._thread
        if thread is None or not thread.is_alive():
            return
        self._runner.get_loop().call_soon_threadsafe(self._stopping.set)
        # The garbage collector may call this in any thread, the loop's own included.
        if thread is not threading.current_thread():
            thread.join(_STOP_TIMEOUT_S)

    def _submit(self, call: Coroutine[Any, Any, R]) -> concurrent.futures.Future[R]:
        # Under the lock, so that the loop sees every call before it is told to stop.
        with self._lock:
            if self._is_stopped:
                call.close()
                raise RuntimeError("The client is closed.")
            if self._thread is None:
                # Made here and not by the thread, which would race with the call below for it.
                self._runner.get_loop()
                self._thread = threading.Thread(target=self._serve, name="vv-client", daemon=True)
                self._thread.start()
            if not self._thread.is_alive():
                call.close()
                raise RuntimeError("The client does not survive a fork; make it afterwards.")
            return asyncio.run_coroutine_threadsafe(call, self._runner.get_loop())

    def _serve(self) -> None:
        with self._runner as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        await self._stopping.wait()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._on_stop()
