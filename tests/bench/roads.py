"""The roads to a server: bare grpc.aio with requests that are serialized once, and nerclient, as users have it.

A bare caller parses each answer and looks no further into it, so that what the client costs hides little of what the
server can do.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from tests.bench.load import Call, Load, Sentence, requests

from ner.v1 import tagger_pb2 as pb
from nerclient import Client

STREAM, UNARY = "/ner.v1.Tagger/StreamTag", "/ner.v1.Tagger/Tag"


class Prepared(list[Sentence]):
    """The sentences of a request, with its message."""

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        super().__init__(sentences)
        words = "\n".join(word for sentence in sentences for word in sentence)
        packed = pb.PackedSentences(tokens=words, lengths=map(len, sentences))
        self.message = pb.TagRequest(id="1", packed=packed).SerializeToString()

    def answered(self, data: bytes) -> pb.TagResponse:
        """The answer, parsed."""
        response = pb.TagResponse.FromString(data)
        assert len(response.outcomes) == len(self), response.error.message
        return response


def prepared(sentences: Sequence[Sentence], size: int) -> Iterator[Prepared]:
    """All sentences over and over, as `requests` gives them, `size` a message."""
    source = requests(sentences, size)
    return itertools.cycle([Prepared(next(source)) for _ in range(len(sentences) // size)])


class Alone:
    """One request after another over one stream; the answers' timings are kept."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: Any = channel.stream_stream(STREAM)()
        self.timings: list[pb.Timing] = []

    async def call(self, request: Sequence[Sentence]) -> None:
        """Wait for the answer."""
        assert isinstance(request, Prepared)
        self.timings.append(request.answered(await self.echo(request)).timing)

    async def echo(self, request: Sequence[Sentence]) -> bytes:
        """The answer as it comes."""
        assert isinstance(request, Prepared)
        await self._call.write(request.message)
        data: bytes = await self._call.read()
        return data

    async def close(self) -> None:
        """End the stream."""
        await self._call.done_writing()
        await self._call.read()


class Streams:
    """Requests of any number of callers, dealt out to streams, whose answers come in order."""

    def __init__(self, channel: grpc.aio.Channel, count: int) -> None:
        self._streams = [_Stream(channel) for _ in range(count)]
        self._turns = itertools.cycle(self._streams)

    async def call(self, request: Sequence[Sentence]) -> None:
        """Wait for the answer, while others send."""
        assert isinstance(request, Prepared)
        request.answered(await self.echo(request))

    async def echo(self, request: Sequence[Sentence]) -> bytes:
        """The answer as it comes."""
        assert isinstance(request, Prepared)
        return await next(self._turns).ask(request.message)

    async def close(self) -> None:
        """End the streams."""
        for stream in self._streams:
            await stream.close()


class _Stream:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        stream: Any = channel.stream_stream(STREAM)
        self._call = stream(self._source())
        self._reader = asyncio.create_task(self._read())

    def ask(self, message: bytes) -> "asyncio.Future[bytes]":
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._messages.put_nowait(message)
        return answer

    async def close(self) -> None:
        self._call.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader

    async def _source(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._messages.get()

    async def _read(self) -> None:
        try:
            async for data in self._call:
                self._waiting.popleft().set_result(data)
        except grpc.aio.AioRpcError as error:
            for answer in self._waiting:
                answer.set_exception(error)


def calls(channel: grpc.aio.Channel) -> Call:
    """Each request by a call of its own."""
    tag: Any = channel.unary_unary(UNARY)

    async def call(request: Sequence[Sentence]) -> None:
        assert isinstance(request, Prepared)
        request.answered(await tag(request.message))

    return call


async def client_streamed(client: Client, sentences: Iterator[Prepared], count: int, seconds: float) -> Load:
    """As much as goes for so many seconds over `count` of the client's streams, one sentence an input."""
    began = time.perf_counter()
    answered: list[int] = []  # tokens of each sentence

    def source() -> Iterator[Sentence]:
        for [sentence] in sentences:
            yield sentence
            if time.perf_counter() > began + seconds:
                return

    async def stream() -> None:
        async for result in client.stream(source()):
            assert result.error is None
            answered.append(len(result.input))

    await asyncio.gather(*(stream() for _ in range(count)))
    return Load([], len(answered), sum(answered), time.perf_counter() - began)
