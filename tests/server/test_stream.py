"""A stream over fakes: order, window, stop and cancellation."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerserver.stream import Pending, Stream, Window, Work


class Fake:
    """Requests that are numbers in one byte, each with an answer that can be held back; and what was written."""

    def __init__(self, inputs: int = 1, by_completion: bool = False) -> None:
        self.inputs = inputs
        self.by_completion = by_completion
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.gates: dict[int, asyncio.Event] = {}
        self.cancelled: list[int] = []
        self.written: list[int] = []
        self.writable = asyncio.Event()
        self.writable.set()

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.incoming.put_nowait(bytes([number]))

    def half_close(self) -> None:
        self.incoming.put_nowait(None)

    def stream(self, window: int = 100) -> Stream[int]:
        return Stream(self.requests(), self.begin, self.write, Window(window, 1000))

    async def requests(self) -> AsyncIterator[bytes]:
        while (data := await self.incoming.get()) is not None:
            yield data

    def begin(self, data: bytes) -> Work[int]:
        self.gates[data[0]] = asyncio.Event()
        return Work(self.inputs, len(data), self.by_completion, partial(self.start, data[0]))

    def start(self, number: int) -> Pending[int]:
        return asyncio.create_task(self.answer(number)), int

    async def answer(self, number: int) -> int:
        try:
            await self.gates[number].wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        if number == 99:
            raise LookupError("99")
        return number

    async def write(self, number: int) -> None:
        await self.writable.wait()
        self.written.append(number)

    def release(self, *numbers: int) -> None:
        for number in numbers:
            self.gates[number].set()


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_request_order() -> None:
    """Answers leave in the order of the requests, whichever is ready first."""
    fake = Fake()
    run = asyncio.create_task(fake.stream().run())
    fake.send(1, 2, 3)
    fake.half_close()
    await settle()
    fake.release(3, 2)
    await settle()
    assert fake.written == []
    fake.release(1)
    await run
    assert fake.written == [1, 2, 3]


async def test_completion_order() -> None:
    """Answers leave as they get ready when that was asked for."""
    fake = Fake(by_completion=True)
    run = asyncio.create_task(fake.stream().run())
    fake.send(1, 2, 3)
    await settle()
    fake.release(3)
    await settle()
    assert fake.written == [3]
    fake.half_close()
    fake.release(1)
    await settle()
    assert fake.written == [3, 1]
    assert not run.done()
    fake.release(2)
    await run
    assert fake.written == [3, 1, 2]


async def test_answers_while_it_reads() -> None:
    """A caller that waits for each answer before it sends the next is served."""
    fake = Fake()
    run = asyncio.create_task(fake.stream().run())
    for number in range(3):
        fake.send(number)
        await settle()
        fake.release(number)
        await settle()
        assert fake.written[-1] == number
    fake.half_close()
    await run


@pytest.mark.parametrize(("inputs", "begun"), [(1, 8), (3, 3), (8, 1), (100, 1)])
async def test_window(inputs: int, begun: int) -> None:
    """Only as many inputs are at work as the window holds; a larger request is at work alone."""
    fake = Fake(inputs=inputs)
    run = asyncio.create_task(fake.stream(window=8).run())
    fake.send(*range(20))
    fake.half_close()
    await settle()
    # One more request may have been read, to learn how large it is.
    assert begun <= len(fake.gates) <= begun + 1
    assert 20 - len(fake.gates) == fake.incoming.qsize() - 1
    for number in range(20):
        await settle()
        fake.release(number)
    await run
    assert fake.written == list(range(20))


async def test_unsent_answers_fill_the_window() -> None:
    """A caller that does not read its answers is not read from any further."""
    fake = Fake()
    fake.writable.clear()
    run = asyncio.create_task(fake.stream(window=5).run())
    fake.send(*range(20))
    await settle()
    for _ in range(3):
        fake.release(*fake.gates)
        await settle()
    assert len(fake.gates) == 5
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_window_counts_bytes() -> None:
    """Large requests fill the window although they hold few inputs."""
    window = Window(100, 10)
    await window.enter(1, 9)
    waiting = asyncio.create_task(window.enter(1, 2))
    await settle()
    assert not waiting.done()
    window.leave(1, 9)
    await waiting


async def test_stop() -> None:
    """A stopped stream answers what it has read, reads no more, and is not read to its end."""
    fake = Fake()
    stream = fake.stream()
    run = asyncio.create_task(stream.run())
    fake.send(1, 2)
    await settle()
    stream.stop()
    await settle()
    assert not run.done()
    fake.release(1, 2)
    await run
    assert fake.written == [1, 2]
    assert not stream.read_all


async def test_stop_with_a_full_window() -> None:
    """What was read but waits for the window is answered as well."""
    fake = Fake(inputs=2)
    stream = fake.stream(window=3)
    run = asyncio.create_task(stream.run())
    fake.send(1, 2, 3, 4, 5)
    await settle()
    assert list(fake.gates) == [1, 2]
    stream.stop()
    fake.release(1, 2)
    await run
    assert fake.written == [1, 2]
    assert fake.incoming.qsize() == 3


async def test_stop_an_idle_stream() -> None:
    """An idle stream stops at once."""
    fake = Fake()
    stream = fake.stream()
    run = asyncio.create_task(stream.run())
    await settle()
    assert not run.done()
    stream.stop()
    await run
    assert (fake.written, stream.unanswered, stream.read_all) == ([], 0, False)


async def test_cancel() -> None:
    """A cancelled stream drops its work and does not hide the cancellation."""
    fake = Fake()
    run = asyncio.create_task(fake.stream().run())
    fake.send(1, 2)
    await settle()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert fake.cancelled == [1, 2]


async def test_what_an_answer_raises_ends_the_stream() -> None:
    """An exception of an answer comes out of the stream, and the rest of its work is dropped."""
    fake = Fake()
    run = asyncio.create_task(fake.stream().run())
    fake.send(99, 2)
    await settle()
    fake.release(99)
    with pytest.raises(LookupError):
        await run
    assert fake.cancelled == [2]


async def test_what_reading_raises_ends_the_stream() -> None:
    """An exception while reading comes out of the stream instead of hanging it."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"\1"
        raise LookupError("broken")

    fake = Fake()
    run = asyncio.create_task(Stream(broken(), fake.begin, fake.write, Window(10, 10)).run())
    await settle()
    fake.release(1)
    with pytest.raises(LookupError, match="broken"):
        await run


@given(st.permutations(range(6)), st.booleans(), st.integers(1, 7))
def test_any_order_of_completion(ready: list[int], by_completion: bool, window: int) -> None:
    """Whatever gets ready first, every request is answered once, and in order unless asked otherwise."""

    async def run() -> list[int]:
        fake = Fake(by_completion=by_completion)
        task = asyncio.create_task(fake.stream(window).run())
        fake.send(*range(6))
        fake.half_close()
        left = list(ready)
        while left:
            await settle()
            number = next(each for each in left if each in fake.gates)
            fake.release(number)
            left.remove(number)
        await task
        return fake.written

    written = asyncio.run(run())
    assert sorted(written) == list(range(6))
    assert by_completion or written == list(range(6))
