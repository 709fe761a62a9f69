"""The blocking client."""

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from nerclient.address import DEFAULT_ADDRESS
from nerclient.client import Client
from nerclient.credentials import Tls
from nerclient.results import Input, Model, Result
from nerclient.retry import Retry

_T = TypeVar("_T")
_READY_BATCHES = 8  # held ready for the caller's thread, since handing over between threads is slow


class SyncClient:
    """`Client` for code without an event loop: the same calls, run on a loop in a thread of its own. Thread-safe.

    with SyncClient() as client:
        for result in client.stream(open("lines.txt")):
            print(result.entities)
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        tls: Tls | None = None,
        token: str | None = None,
        timeout_s: float = 60.0,
        retry: Retry = Retry(),  # noqa: B008 frozen
    ) -> None:
        self._client = Client(address, tls=tls, token=token, timeout_s=timeout_s, retry=retry)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nerclient-loop", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._stop())
        loop, self._loop = self._connected(), None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    @overload
    def tag(  # type: ignore[overload-overlap]  # a str is an iterable of str, and never meant as one
        self, inputs: str, *, scores: bool = False, tags: bool = False, min_probability: float | None = None
    ) -> Result: ...

    @overload
    def tag(
        self,
        inputs: Iterable[Input],
        *,
        scores: bool = False,
        tags: bool = False,
        min_probability: float | None = None,
    ) -> list[Result]: ...

    def tag(
        self,
        inputs: str | Iterable[Input],
        *,
        scores: bool = False,
        tags: bool = False,
        min_probability: float | None = None,
    ) -> Result | list[Result]:
        """As Client.tag."""
        return self._run(self._client.tag(inputs, scores=scores, tags=tags, min_probability=min_probability))

    def stream(
        self,
        inputs: Iterable[Input],
        *,
        scores: bool = False,
        tags: bool = False,
        min_probability: float | None = None,
        window: int = 1024,
    ) -> Iterator[Result]:
        """As Client.stream. The source is read in another thread."""
        ready: queue.SimpleQueue[list[Result]] = queue.SimpleQueue()
        room = asyncio.Semaphore(_READY_BATCHES)

        async def pump() -> None:
            batches = self._client.stream_batches(
                inputs, scores=scores, tags=tags, min_probability=min_probability, window=window
            )
            try:
                async with aclosing(batches):
                    async for results in batches:
                        await room.acquire()
                        ready.put(results)
            finally:
                ready.put([])

        pumping = self._start(pump())
        try:
            while results := ready.get():
                self._connected().call_soon_threadsafe(room.release)
                yield from results
            pumping.result()
        finally:
            pumping.cancel()

    def model(self, version: str = "") -> Model:
        """As Client.model."""
        return self._run(self._client.model(version))

    def health(self) -> str:
        """As Client.health."""
        return self._run(self._client.health())

    async def _stop(self) -> None:
        streams = asyncio.all_tasks() - {asyncio.current_task()}
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        await self._client.__aexit__(None, None, None)

    def _connected(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the client is not connected: use it inside `with SyncClient(...) as client`")
        return self._loop

    def _start(self, call: Coroutine[Any, Any, _T]) -> Future[_T]:
        try:
            return asyncio.run_coroutine_threadsafe(call, self._connected())
        except RuntimeError:
            call.close()
            raise

    def _run(self, call: Coroutine[Any, Any, _T]) -> _T:
        future = self._start(call)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
