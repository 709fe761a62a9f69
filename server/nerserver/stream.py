"""One stream: its requests are read while others are answered, within a window, and answered in order or when ready."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

ResponseT = TypeVar("ResponseT")
# What a response is made of, to come, and what makes it, which never fails.
Pending: TypeAlias = tuple[asyncio.Future[Any], Callable[[Any], ResponseT]]


@dataclass(frozen=True)
class Work(Generic[ResponseT]):
    """One request as a stream sees it."""

    inputs: int
    size: int  # bytes
    by_completion: bool  # whether its answer may leave before those of earlier requests
    start: Callable[[], Pending[ResponseT]]


class Window:
    """What one stream has read and not yet answered, in inputs and in bytes; the reply counts until it is sent."""

    def __init__(self, max_inputs: int, max_size: int) -> None:
        self._max_inputs = max_inputs
        self._max_size = max_size
        self._inputs = 0
        self._size = 0
        self._left = asyncio.Event()

    async def enter(self, inputs: int, size: int) -> None:
        """Wait until there is room; what is larger than the window is let in alone."""
        while self._inputs and (self._inputs + inputs > self._max_inputs or self._size + size > self._max_size):
            await self._change()
        self._inputs += inputs
        self._size += size

    async def open(self) -> None:
        """Wait until there is room for one more input."""
        while self._inputs >= self._max_inputs or self._size >= self._max_size:
            await self._change()

    def leave(self, inputs: int, size: int) -> None:
        """Make the room of an answered request free again."""
        self._inputs -= inputs
        self._size -= size
        self._left.set()

    async def _change(self) -> None:
        self._left.clear()
        await self._left.wait()


class Stream(Generic[ResponseT]):
    """The requests of one stream, many under way at a time; `begin` makes the work of one and never fails."""

    def __init__(
        self,
        requests: AsyncIterator[bytes],
        begin: Callable[[bytes], Work[ResponseT]],
        write: Callable[[ResponseT], Awaitable[None]],
        window: Window,
    ) -> None:
        self._requests = requests
        self._begin = begin
        self._write = write
        self._window = window
        self.unanswered = 0  # requests that were read and have no response yet
        self.read_all = False  # the caller has half-closed
        self._stopping = False
        self._under_way: set[asyncio.Future[Any]] = set()
        # What to answer next; None is a nudge to look whether all is done.
        self._next: asyncio.Queue[tuple[Work[ResponseT], Pending[ResponseT]] | None] = asyncio.Queue()

    def stop(self) -> None:
        """Read no more; `run` returns once everything that was read is answered."""
        self._stopping = True
        self._next.put_nowait(None)

    async def run(self) -> None:
        """Answer everything until the caller's half-close or `stop`; what an answer raises ends it."""
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(lambda _: self._next.put_nowait(None))
        try:
            while self.unanswered or not (self.read_all or self._stopping):
                following = await self._next.get()
                if following is not None:
                    work, (answer, respond) = following
                    response = respond(await answer)
                    self._under_way.discard(answer)
                    self.unanswered -= 1
                    await self._write(response)
                    self._window.leave(work.inputs, work.size)
                elif reader.done():
                    reader.result()
        finally:
            for unfinished in (reader, *self._under_way):
                unfinished.cancel()
            await asyncio.gather(reader, *self._under_way, return_exceptions=True)

    async def _read(self) -> None:
        async for data in self._requests:
            self.unanswered += 1
            work = self._begin(data)
            await self._window.enter(work.inputs, work.size)
            pending = work.start()
            self._under_way.add(pending[0])
            if work.by_completion:
                pending[0].add_done_callback(partial(self._put, work, pending))
            else:
                self._next.put_nowait((work, pending))
            await self._window.open()
            if self._stopping:
                return
        self.read_all = True

    def _put(self, work: Work[ResponseT], pending: Pending[ResponseT], _: asyncio.Future[Any]) -> None:
        self._next.put_nowait((work, pending))
