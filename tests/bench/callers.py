"""How each server is called: JSON or Triton's protocol over plain HTTP/1.1, and ours by its client.

The HTTP is written by hand, with connections kept open: less work for the client leaves the server more of the cores.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol, TypeAlias

from tests.bench.load import Sentence

from nerclient import Client, Result

Paths: TypeAlias = list[list[int]]  # tag ids of each sentence


class Caller(Protocol):
    """One way to a server."""

    async def call(self, sentences: Sequence[Sentence]) -> object:
        """One request, answered as its users want it."""

    async def paths(self, sentences: Sequence[Sentence]) -> Paths:
        """One request, answered by tag ids."""


Connect: TypeAlias = Callable[[int], AbstractAsyncContextManager[Caller]]  # to a port of this machine


class _Connection(asyncio.Protocol):
    """One request at a time."""

    transport: asyncio.Transport
    reply: asyncio.Future[bytes]
    received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        self.received = b""
        self.reply = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            raise ConnectionResetError("the connection was closed")
        self.transport.write(request)
        return self.reply

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end or self.reply.done():
            return
        status, *lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        if b" 200" not in status:
            self.transport.close()
            self.reply.set_exception(OSError(f"answered {status.decode()}"))
        elif b"content-length" not in headers:
            if body.endswith(b"0\r\n\r\n"):
                self.reply.set_result(_joined(body))
        elif len(body) >= int(headers[b"content-length"]):
            self.reply.set_result(body)

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "reply") and not self.reply.done():
            self.reply.set_exception(ConnectionResetError("the connection was closed"))


def _joined(chunks: bytes) -> bytes:
    """The body that was sent in chunks, each after its length in hexadecimal and a line end."""
    parts = []
    while (size := int((lines := chunks.partition(b"\r\n"))[0], 16)) > 0:
        parts.append(lines[2][:size])
        chunks = lines[2][size + 2 :]
    return b"".join(parts)


class Http:
    """Posts what `encode` makes of sentences to a path, over as many connections as calls are in flight."""

    def __init__(
        self, port: int, path: str, encode: Callable[[Sequence[Sentence]], Any], decode: Callable[[Any], Paths]
    ) -> None:
        self._port = port
        self._head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
        self._encode = encode
        self._decode = decode
        self._idle: list[_Connection] = []

    async def paths(self, sentences: Sequence[Sentence]) -> Paths:
        """Raises OSError where there is no answer, or another one than 200."""
        body = json.dumps(self._encode(sentences), separators=(",", ":"))
        request = f"{self._head}{len(body)}\r\n\r\n{body}".encode()
        while self._idle:
            connection = self._idle.pop()
            with suppress(ConnectionResetError):  # servers close what was idle for a while: take another
                return await self._ask(connection, request)
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", self._port)
        return await self._ask(connection, request)

    call = paths

    async def _ask(self, connection: _Connection, request: bytes) -> Paths:
        reply = await connection.ask(request)
        self._idle.append(connection)
        return self._decode(json.loads(reply))

    async def close(self) -> None:
        """Close the connections, which a server may wait for when it stops."""
        for connection in self._idle:
            connection.transport.close()
        await asyncio.sleep(0)  # the loop closes them in its next turn


def over_json(path: str) -> Connect:
    """{"sentences": [[word, ...], ...]} to [[tag id, ...], ...]."""

    @asynccontextmanager
    async def connect(port: int) -> AsyncIterator[Caller]:
        http = Http(port, path, lambda sentences: {"sentences": sentences}, lambda reply: reply)
        try:
            yield http
        finally:
            await http.close()

    return connect


@asynccontextmanager
async def over_triton(port: int) -> AsyncIterator[Caller]:
    """KServe's inference protocol, version 2: a sentence is its words joined by spaces, as are a path's ids."""

    def encode(sentences: Sequence[Sentence]) -> Any:
        texts = [" ".join(words) for words in sentences]
        return {
            "inputs": [{"name": "sentences", "shape": [len(texts), 1], "datatype": "BYTES", "data": texts}],
        }

    def decode(reply: Any) -> Paths:
        return [[int(tag) for tag in path.split()] for path in reply["outputs"][0]["data"]]

    http = Http(port, "/v2/models/tagger/infer", encode, decode)
    try:
        yield http
    finally:
        await http.close()


class Calls:
    """nerclient, one call a request."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, sentences: Sequence[Sentence]) -> object:
        """Entities."""
        return _good(await self._client.tag(sentences))

    async def paths(self, sentences: Sequence[Sentence]) -> Paths:
        """Tags as ids."""
        return await _paths(self._client, await self._client.tag(sentences, tags=True))


class Streamed:
    """nerclient, all requests over one stream, and those for tags over another."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._entities = _Stream(client, tags=False)
        self._tags = _Stream(client, tags=True)

    async def call(self, sentences: Sequence[Sentence]) -> object:
        """Entities."""
        return _good(await self._entities.call(sentences))

    async def paths(self, sentences: Sequence[Sentence]) -> Paths:
        """Tags as ids."""
        return await _paths(self._client, await self._tags.call(sentences))

    async def close(self) -> None:
        """End the streams."""
        for stream in (self._entities, self._tags):
            await stream.close()


class _Stream:
    """Requests of several callers over one stream, whose results come in order."""

    def __init__(self, client: Client, tags: bool) -> None:
        self._inputs: asyncio.Queue[Sentence] = asyncio.Queue()
        self._asked: deque[tuple[int, asyncio.Future[list[Result]]]] = deque()
        self._reader = asyncio.create_task(self._read(client.stream(self._source(), tags=tags)))
        self._reader.add_done_callback(self._fail)

    async def call(self, sentences: Sequence[Sentence]) -> list[Result]:
        answer: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        self._asked.append((len(sentences), answer))
        for sentence in sentences:
            self._inputs.put_nowait(sentence)
        return await answer

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])

    def _fail(self, reader: asyncio.Task[None]) -> None:
        error = None if reader.cancelled() else reader.exception()
        for _, answer in self._asked:
            answer.set_exception(error or OSError("the stream ended"))

    async def _source(self) -> AsyncIterator[Sentence]:
        while True:
            yield await self._inputs.get()

    async def _read(self, results: AsyncIterator[Result]) -> None:
        found = []
        async for result in results:
            found.append(result)
            count, answer = self._asked[0]
            if len(found) == count:
                self._asked.popleft()
                answer.set_result(found)
                found = []


@asynccontextmanager
async def by_calls(port: int) -> AsyncIterator[Caller]:
    """nerclient's `Client.tag`."""
    async with Client(f"127.0.0.1:{port}") as client:
        yield Calls(client)


@asynccontextmanager
async def by_stream(port: int) -> AsyncIterator[Caller]:
    """nerclient's `Client.stream`."""
    async with Client(f"127.0.0.1:{port}") as client:
        caller = Streamed(client)
        try:
            yield caller
        finally:
            await caller.close()


def _good(results: list[Result]) -> list[Result]:
    for result in results:
        if result.error is not None:
            raise result.error
    return results


async def _paths(client: Client, results: list[Result]) -> Paths:
    ids = {tag: number for number, tag in enumerate((await client.model()).tags)}
    return [[ids[token.tag] for token in result.tokens or ()] for result in _good(results)]
