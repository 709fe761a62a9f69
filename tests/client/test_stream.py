"""Client.stream: order, promptness, bounds, breaks."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from ner.v1 import tagger_pb2 as pb
from nerclient import (
    Client,
    DeadlineExceeded,
    Input,
    InternalError,
    InvalidInput,
    NerstreamError,
    ProtocolError,
    ResourceExhausted,
    Result,
    Retry,
    Unavailable,
    Unimplemented,
)
from nerclient.connection import Connection
from nerclient.feed import Feed
from nerclient.stream import Pack, Stream
from nerclient.wire import Item, Request

if TYPE_CHECKING:
    from tests.client.conftest import Server


async def test_every_input_is_answered_in_order(client: Client) -> None:
    """Two thousand inputs of both kinds give two thousand results in their order, each with its own entity."""
    inputs = [f"hello Name{i}" if i % 3 else ["hello", f"Name{i}"] for i in range(2000)]
    results = [result async for result in client.stream(inputs)]
    assert [result.input for result in results] == inputs
    assert [result.entities[0].text for result in results] == [f"Name{i}" for i in range(2000)]


async def test_inputs_that_are_ready_travel_together(client: Client, server: Server) -> None:
    """Two thousand inputs at hand take far fewer messages than inputs."""
    assert len([result async for result in client.stream(["x"] * 2000)]) == 2000
    assert len(server.tagger.requests) < 300


async def test_an_async_source_is_answered_before_it_gives_more(client: Client) -> None:
    """An input is answered although its source gives no other until that has happened."""
    answered = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        for i in range(5):
            yield f"Name {i}"
            await answered.wait()
            answered.clear()

    count = 0
    async with asyncio.timeout(10):
        async for _ in client.stream(source()):
            count += 1
            answered.set()
    assert count == 5


async def test_a_blocking_source_is_answered_before_it_gives_more(client: Client) -> None:
    """An iterator that blocks holds up neither the event loop nor the answer to what it gave."""
    answered = threading.Semaphore(0)

    def source() -> Iterator[str]:
        for i in range(5):
            yield f"Name {i}"
            assert answered.acquire(timeout=10)

    count = 0
    async for _ in client.stream(source()):
        count += 1
        answered.release()
    assert count == 5


@pytest.mark.parametrize("window", [1, 7, 100])
@pytest.mark.parametrize("blocking", [True, False])
async def test_the_source_is_not_read_beyond_the_window(
    client: Client, server: Server, window: int, blocking: bool
) -> None:
    """While the server answers nothing, exactly `window` inputs are taken from the source."""
    server.tagger.gate.clear()
    taken = 0

    def numbers() -> Iterator[str]:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield f"Name {i}"

    async def numbers_later() -> AsyncIterator[str]:
        for number in numbers():
            yield number

    source = numbers() if blocking else numbers_later()
    consumer = asyncio.create_task(collect(client, source, window))
    await server.tagger.until_received(window)
    assert taken == window
    server.tagger.gate.set()
    assert len(await consumer) == taken == 1000


async def collect(client: Client, source: AsyncIterator[str] | Iterator[str], window: int) -> list[Result]:
    return [result async for result in client.stream(source, window=window)]


async def test_a_consumer_that_pauses_stops_the_source(client: Client, server: Server) -> None:
    """Results that nobody takes keep the source from being read."""
    taken = 0

    async def source() -> AsyncIterator[str]:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield f"Name {i}"

    batches = client.stream_batches(source(), window=50)
    answered = len(await anext(batches))
    await server.tagger.until_received(50 + answered)
    assert taken == 50 + answered
    await batches.aclose()


async def test_long_inputs_count_as_several(client: Client, server: Server) -> None:
    """A window of 20 holds fewer inputs of 40,000 characters, so memory is bounded too."""
    server.tagger.gate.clear()
    taken = 0

    async def source() -> AsyncIterator[str]:
        nonlocal taken
        for _ in range(10):
            taken += 1
            yield "x" * 40_000

    consumer = asyncio.create_task(collect(client, source(), 20))
    await server.tagger.until_received(2)
    assert taken == 2
    server.tagger.gate.set()
    assert len(await consumer) == 10


@pytest.mark.parametrize("seed", range(20))
async def test_broken_streams_are_resumed(client: Client, server: Server, seed: int) -> None:
    """However often and wherever the stream breaks, every input is answered once and in order."""
    dice = random.Random(seed)
    server.tagger.breaks_unread = bool(seed % 2)
    for _ in range(dice.randint(1, 10)):
        server.tagger.breaks += [0] * dice.randint(0, 3) + [dice.randint(1, 6)]
    inputs = [f"Name{i}" for i in range(dice.randint(100, 800))]

    async def source() -> AsyncIterator[str]:
        for given in inputs:
            yield given
            if dice.random() < 0.1:
                await client.health()

    results = [result async for result in client.stream(source(), window=dice.choice([1, 40, 1024]))]
    assert [result.input for result in results] == inputs
    assert [result.entities[0].text for result in results] == inputs
    assert server.tagger.streams > 1


async def test_a_restarted_server_is_found_again(client: Client, server: Server) -> None:
    """A stream outlives the server process that it began with, when another takes its address."""

    async def source() -> AsyncIterator[str]:
        for i in range(300):
            yield f"Name{i}"
            if i == 150:
                await server.stop()
                await server.start()

    patient = Client(server.address, retry=Retry(attempts=20, first_s=0.05))
    async with patient:
        results = [result async for result in patient.stream(source())]
    assert [result.entities[0].text for result in results] == [f"Name{i}" for i in range(300)]


async def test_a_resumed_stream_knows_the_new_server(server: Server) -> None:
    """After a restart in mid-stream, the new server's limits and tag table are used."""

    async def source() -> AsyncIterator[str]:
        yield "Ada"
        await server.restart()
        yield "Ada"
        yield "x" * 100

    async with Client(server.address, retry=Retry(attempts=20, first_s=0.05)) as client:
        first, second, third = [result async for result in client.stream(source(), tags=True, window=1)]
    assert first == second
    assert first.tokens is not None
    assert first.tokens[0].tag == "B-ORG"
    assert "max_text_bytes of 10:" in str(third.error)


async def test_what_waits_for_an_answer_is_packed_anew(server: Server) -> None:
    """Inputs that were sent in vain are held to the limits of the server that is asked again."""
    server.tagger.gate.clear()
    async with Client(server.address, retry=Retry(attempts=20, first_s=0.05)) as client:
        consumer = asyncio.create_task(collect(client, iter(["x" * 100, "Ada"]), 10))
        await server.tagger.until_received(2)
        await server.restart()
        server.tagger.gate.set()
        long, short = await consumer
    assert "max_text_bytes of 10:" in str(long.error)
    assert short.entities


@pytest.mark.parametrize(
    ("busy", "streams", "answered"),
    [([0.001] * 3, 4, True), ([0.001] * 9, 5, False), ([None], 1, False), ([1000.0], 1, False)],
)
async def test_a_full_server(
    client: Client, server: Server, busy: list[float | None], streams: int, answered: bool
) -> None:
    """A stream that is refused comes again when it was asked to, as often as `retry` says, and else raises."""
    server.tagger.busy_streams = busy
    if answered:
        assert [result.error async for result in client.stream(["Ada"])] == [None]
    else:
        with pytest.raises(ResourceExhausted):
            await anext(client.stream(["Ada"]))
    assert server.tagger.streams == streams


async def test_giving_up(client: Client, server: Server) -> None:
    """A stream that breaks again and again without an answer raises Unavailable after the attempts are used."""
    server.tagger.breaks = [2] + [0] * 10
    with pytest.raises(Unavailable, match="gave up after 5 attempts"):
        async for _ in client.stream(["Name"] * 1000):
            pass
    assert server.tagger.streams == 5


async def test_other_failures_are_not_retried(client: Client, server: Server) -> None:
    """A stream that ends with something else than UNAVAILABLE raises it at once."""
    server.tagger.breaks, server.tagger.broken = [0], grpc.StatusCode.INTERNAL
    with pytest.raises(InternalError, match="broken on purpose"):
        async for _ in client.stream(["Name"], window=1):
            pass
    assert server.tagger.streams == 1


async def test_a_silent_server_runs_into_the_timeout(server: Server) -> None:
    """While an answer is due, none within `timeout_s` raises DeadlineExceeded."""
    server.tagger.gate.clear()
    async with Client(server.address, timeout_s=0.2) as client:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            async for _ in client.stream(["Name"]):
                pass


class Echo:
    """A call that has each answer at once, so that even no time at all is enough to read it."""

    def __init__(self) -> None:
        self.answers: list[pb.TagResponse] = []

    async def write(self, request: pb.TagRequest) -> None:
        self.answers.append(pb.TagResponse(id=request.id))

    async def read(self) -> object:
        return self.answers.pop(0) if self.answers else grpc.aio.EOF

    async def done_writing(self) -> None: ...

    def cancel(self) -> None: ...


async def test_a_silent_source_does_not() -> None:
    """While no answer is due, not even a timeout of nothing runs."""
    answered = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        yield "Name"
        await answered.wait()
        yield "Name"

    async def open_call() -> tuple[Any, Pack]:
        def pack(inputs: list[Input]) -> list[Request]:
            return [Request([Item(given)], pb.TagRequest()) for given in inputs]

        return Echo(), pack

    async def unpack(request: Request, response: pb.TagResponse) -> list[Result]:
        return [Result(item.input) for item in request.items]

    stream = Stream(
        Feed(source(), 10),
        Connection("h:1", tls=None, token=None, timeout_s=0, retry=Retry(), forget=lambda: None),
        open_call=open_call,
        unpack=unpack,
        forget=lambda: None,
        most_inputs=32,
    )
    batches = stream.batches()
    assert await anext(batches)
    second = asyncio.ensure_future(anext(batches))
    await asyncio.wait([second], timeout=0)
    answered.set()
    assert await second
    assert [batch async for batch in batches] == []


@pytest.mark.parametrize(
    ("forged", "complaint"),
    [({"id": "7"}, "request '7' where '1' was due"), ({"id": ""}, "request '' where '1' was due")],
)
async def test_a_wrong_id_is_a_protocol_error(
    client: Client, server: Server, forged: dict[str, str], complaint: str
) -> None:
    """An answer to another request than the oldest is never taken for its answer."""
    server.tagger.forge = forged
    with pytest.raises(ProtocolError, match=complaint):
        async for _ in client.stream(["Name"]):
            pass


async def test_errors_of_one_input_stand_in_its_place(client: Client) -> None:
    """Inputs refused by the client or the server have a typed error each, and their neighbours are answered."""
    bad = {3: "POISON", 10: "a \ud800", 11: ["b", "\udcff"], 12: "x" * 60_000, 13: ["y" * 120_000], 14: "CRASH"}
    inputs = [bad.get(i, f"Name{i}") for i in range(100)]
    results = [result async for result in client.stream(inputs)]
    assert [result.input for result in results] == inputs
    errors = {i: result.error for i, result in enumerate(results) if result.error}
    assert {i: type(error) for i, error in errors.items()} == {
        **dict.fromkeys(bad, InvalidInput),
        14: InternalError,
    }
    assert "max_sentence_tokens" in str(errors[3])
    assert "lone surrogate at position 2" in str(errors[10])
    assert "max_text_bytes of 50,000" in str(errors[12])
    assert "max_request_bytes of 100,000" in str(errors[13])
    assert all(results[i].entities[0].text == f"Name{i}" for i in range(100) if i not in bad)


@pytest.mark.parametrize("wrong", [None, 5, b"bytes", ["a", None], ["a", b"b"]])
async def test_what_is_no_input_is_an_error_in_its_place(client: Client, wrong: object) -> None:
    """Something that is neither text nor tokens is refused alone, and its type is named."""
    inputs: list[object] = ["Name", wrong, "Name"]
    results = [result async for result in client.stream(inputs)]  # type: ignore[arg-type]
    assert [result.error is None for result in results] == [True, False, True]
    assert "a str or a sequence of str" in str(results[1].error)


async def test_only_bad_inputs(client: Client, server: Server) -> None:
    """Inputs that cannot be sent are answered at once, without the server."""
    results = [result async for result in client.stream(["\ud800"] * 100)]
    assert all(isinstance(result.error, InvalidInput) for result in results)
    assert len(results) == 100
    assert server.tagger.requests == []


async def test_a_refused_request_refuses_its_inputs(client: Client) -> None:
    """TagResponse.error stands for each input of that request, and the stream lives on."""

    results = [result async for result in client.stream(["Name", "REFUSE", "Name"], window=1)]
    assert [result.error is None for result in results] == [True, False, True]
    assert str(results[1].error) == "the request is malformed"


async def test_an_option_that_the_server_lacks_ends_the_stream(client: Client, server: Server) -> None:
    """What would be refused for every input alike is raised once, and names the option."""
    server.tagger.scoreless = True
    with pytest.raises(Unimplemented, match=r"TagOptions\.scores is not built"):
        await anext(client.stream(["Ada", "Ada"], scores=True))


async def test_a_lone_str_is_not_a_source(client: Client) -> None:
    """A str as the source is refused, where Python would iterate over its characters."""
    with pytest.raises(TypeError, match=r"use tag\(\)"):
        await anext(client.stream("Name"))


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("kind", [LookupError, asyncio.CancelledError])
async def test_an_error_of_the_source_comes_after_its_inputs(
    client: Client, blocking: bool, kind: type[BaseException]
) -> None:
    """What the source raises, even CancelledError, is raised after the results of all it gave before."""

    def numbers() -> Iterator[str]:
        yield from ["Name"] * 100
        raise kind("the source is broken")

    async def numbers_later() -> AsyncIterator[str]:
        for number in numbers():
            yield number

    stream = client.stream(numbers() if blocking else numbers_later())
    for _ in range(100):
        await anext(stream)
    with pytest.raises(kind, match="the source is broken"):
        await anext(stream)


async def test_closing_the_iterator_closes_the_source(client: Client) -> None:
    """`aclose` runs the `finally` of an async generator that still had inputs to give."""
    closed = False

    async def endless() -> AsyncIterator[str]:
        nonlocal closed
        try:
            while True:
                yield "Name"
        finally:
            closed = True

    source = endless()
    stream = client.stream(source, window=10)
    await anext(stream)
    await stream.aclose()
    assert closed


async def test_closing_the_iterator_cancels_the_call(client: Client, server: Server) -> None:
    """`aclose` ends the call on the server and stops reading the source."""
    taken = threading.Semaphore(0)

    def endless() -> Iterator[str]:
        while True:
            taken.release()
            yield "Name"

    stream = client.stream(endless(), window=10)
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(server.tagger.ended.wait(), 10)
    feeds = [thread for thread in threading.enumerate() if thread.name == "nerclient-feed"]
    for thread in feeds:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()


async def test_cancelling_the_task_cancels_the_call(client: Client, server: Server) -> None:
    """A cancelled consumer sees CancelledError, and the server sees its stream cancelled."""
    server.tagger.gate.clear()
    consumer = asyncio.create_task(collect(client, iter(["Name"]), 10))
    await server.tagger.until_received(1)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    await asyncio.wait_for(server.tagger.ended.wait(), 10)


async def test_a_finished_stream_is_not_cancelled(client: Client, server: Server) -> None:
    """A stream that is read to its end is half-closed by the client and ended by the server."""
    assert len([result async for result in client.stream(["Name"])]) == 1
    assert server.tagger.half_closed == 1


async def test_an_empty_source_has_no_results(client: Client) -> None:
    """No inputs, no results, no error."""
    assert [result async for result in client.stream([])] == []


async def test_two_streams_at_once(client: Client) -> None:
    """One client carries several streams, each with its own order."""

    async def run(name: str) -> list[str]:
        return [r.entities[0].text async for r in client.stream([f"{name}{i}" for i in range(300)])]

    first, second = await asyncio.gather(run("First"), run("Second"))
    assert first == [f"First{i}" for i in range(300)]
    assert second == [f"Second{i}" for i in range(300)]


async def test_tags_come_from_the_table_of_the_version_that_answered(client: Client, server: Server) -> None:
    """After a reload in mid-stream the new version's table is fetched, once."""

    async def source() -> AsyncIterator[str]:
        for i in range(100):
            if i == 50:
                server.tagger.version = "en/000002"
            yield f"Name{i}"

    results = [result async for result in client.stream(source(), tags=True, window=1)]
    assert {result.model_version for result in results} == {"en/000001", "en/000002"}
    assert all(result.tokens and result.tokens[0].tag[:2] == "B-" for result in results)
    assert server.tagger.model_calls == ["", "en/000002"]


async def test_no_error_of_grpc_gets_out(client: Client, server: Server) -> None:
    """Every status ends in an error of this package."""
    for code in grpc.StatusCode:
        if code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE):
            continue
        server.tagger.streams, server.tagger.breaks, server.tagger.broken = 0, [0] * 10, code
        with pytest.raises(NerstreamError):
            await anext(client.stream(["Name"]))
