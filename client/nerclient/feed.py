"""A source of inputs, read ahead a little."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable

from nerclient.results import Input


class Feed:
    """Hands out the inputs of a source as they become ready, and holds at most `window` that are not yet released.

    A long input counts as several: one for every 4,096 characters or 512 tokens. A plain iterable is read in a thread
    of its own, so one that blocks (a file, a pipe) never holds up the event loop; that thread is a daemon, since a
    blocked read cannot be interrupted.
    """

    def __init__(self, source: Iterable[Input] | AsyncIterable[Input], window: int) -> None:
        self.error: BaseException | None = None  # what the source raised, after the inputs before it
        self._window = window
        self._held = 0
        self._inputs: deque[Input] = deque()
        self._ended = False
        self._closed = False
        self._ready = asyncio.Event()  # an input is at hand, or the source has ended
        self._room = asyncio.Event()
        self._room_in_thread = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        if isinstance(source, AsyncIterable):
            self._task = self._loop.create_task(self._read(source))
        else:
            threading.Thread(target=self._read_in_thread, args=(source,), name="nerclient-feed", daemon=True).start()

    async def take(self, most: int) -> list[Input]:
        """The inputs at hand, at least one and at most `most`, waiting only for the first; none at the end."""
        while not self._inputs:
            if self._ended:
                return []
            self._ready.clear()
            if not self._inputs and not self._ended:
                await self._ready.wait()
        return [self._inputs.popleft() for _ in range(min(most, len(self._inputs)))]

    def release(self, given: Input) -> None:
        """Makes room for what comes after one more answered input."""
        with self._room_in_thread:
            self._held -= _weight(given)
            self._room_in_thread.notify()
        self._room.set()

    async def aclose(self) -> None:
        """Stops reading and closes an async generator; a thread blocked in its source stops when that read returns."""
        with self._room_in_thread:
            self._closed = True
            self._room_in_thread.notify()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _read(self, source: AsyncIterable[Input]) -> None:
        try:
            inputs = aiter(source)
            try:
                async for given in inputs:
                    self._held += _weight(given)
                    self._inputs.append(given)
                    self._ready.set()
                    while self._held >= self._window:
                        self._room.clear()
                        await self._room.wait()
            finally:
                if isinstance(inputs, AsyncGenerator):
                    await inputs.aclose()
        except BaseException as error:  # handed to the caller, also a CancelledError unless it is that of aclose
            if not self._closed:
                self.error = error
        finally:
            self._ended = True
            self._ready.set()

    def _read_in_thread(self, source: Iterable[Input]) -> None:
        try:
            for given in source:
                with self._room_in_thread:
                    self._held += _weight(given)
                self._inputs.append(given)
                self._wake()
                with self._room_in_thread:
                    self._room_in_thread.wait_for(lambda: self._held < self._window or self._closed)
                    if self._closed:
                        return
        except BaseException as error:  # handed to the caller
            self.error = error
        finally:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        if not self._ready.is_set():
            with self._room_in_thread:
                if not self._closed:
                    self._loop.call_soon_threadsafe(self._ready.set)


def _weight(given: Input) -> int:
    try:
        return 1 + len(given) // (4096 if isinstance(given, str) else 512)
    except TypeError:  # no input at all, which is answered in its place
        return 1
