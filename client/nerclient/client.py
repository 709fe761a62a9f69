"""The asyncio client."""

import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Self, overload

from grpc_health.v1 import health_pb2, health_pb2_grpc

from ner.v1 import tagger_pb2 as pb
from ner.v1.tagger_pb2_grpc import TaggerStub
from nerclient import wire
from nerclient.address import DEFAULT_ADDRESS
from nerclient.connection import Connection
from nerclient.credentials import Tls
from nerclient.errors import NotFound
from nerclient.feed import Feed
from nerclient.results import Input, Model, Result
from nerclient.retry import Retry
from nerclient.stream import Call, Pack, Stream

SERVICE = "ner.v1.Tagger"

_STREAM_INPUTS = 32  # in one message: enough that the cost of a message vanishes, few enough to answer soon
_STREAM_BYTES = 64 * 1024


class Client:
    """A connection to one nerstream server, for any number of calls at once, in one event loop.

    `address` is HOST:PORT. Without `tls` the connection is plaintext. `token` proves who calls; without TLS it goes to
    this machine's own servers only. `timeout_s` bounds each unary call with its retries, and on a stream the wait
    for the next answer while one is due. `retry` is for a server that was reached before; one that was never reached
    fails at once. Raises ValueError for an address of another form and for a token that must not or cannot be sent. To
    enter the context raises OSError or ValueError for a file of `tls` that is of no use.

        async with Client("127.0.0.1:50051") as client:
            result = await client.tag("Steve Jobs founded Apple.")
            async for result in client.stream(lines):
                print(result.entities)

    Calls raise NerstreamError's subclasses and nothing of gRPC's.
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
        self.connection = Connection(  # shared with Admin
            address, tls=tls, token=token, timeout_s=timeout_s, retry=retry, forget=self._forget
        )
        self._model: Model | None = None  # the last one described as serving now
        self._tables: dict[str, tuple[str, ...]] = {}  # Model.tags by version

    async def __aenter__(self) -> Self:
        self.connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.connection.close()

    @overload
    async def tag(  # type: ignore[overload-overlap]  # a str is an iterable of str, and never meant as one
        self, inputs: str, *, scores: bool = False, tags: bool = False, min_probability: float | None = None
    ) -> Result: ...

    @overload
    async def tag(
        self,
        inputs: Iterable[Input],
        *,
        scores: bool = False,
        tags: bool = False,
        min_probability: float | None = None,
    ) -> list[Result]: ...

    async def tag(
        self,
        inputs: str | Iterable[Input],
        *,
        scores: bool = False,
        tags: bool = False,
        min_probability: float | None = None,
    ) -> Result | list[Result]:
        """Tags one text, or each of some inputs, in one call or as few as the server's limits allow.

        A str gives one Result, and raises what is wrong with it. Anything else is an iterable of inputs and gives one
        Result for each, in order, with what is wrong with an input in its `Result.error`; one sentence of tokens is
        therefore `tag([["Steve", "Jobs"]])`. `scores` sets Entity.score, `tags` sets Result.tokens. `min_probability`
        asks for every entity that is at least so probable, with its score, in place of the best ones that fit beside
        each other; from 0.001 to 1, or ValueError.
        """
        options = wire.options(scores, tags, min_probability)
        if isinstance(inputs, str):
            [result] = await self.tag([inputs], scores=scores, tags=tags, min_probability=min_probability)
            if result.error is not None:
                raise result.error
            return result
        limits = (await self._known_model()).limits
        requests = wire.pack(
            inputs,
            limits,
            options,
            itertools.count(1),
            most_inputs=limits.max_inputs,
            most_bytes=limits.max_request_bytes,
        )
        results: list[Result] = []
        for request in requests:
            if request.message is None:
                results += map(wire.refused, request.items)
            else:
                response = await self.connection.unary(self._stub().Tag, request.message)
                results += await self._unpack(tags, request, response)
        return results

    async def stream(
        self,
        inputs: Iterable[Input] | AsyncIterable[Input],
        *,
        scores: bool = False,
        tags: bool = False,
        min_probability: float | None = None,
        window: int = 1024,
    ) -> AsyncGenerator[Result, None]:
        """Tags any number of inputs in constant memory: one Result for each, in order, as soon as it is answered.

        `scores`, `tags` and `min_probability` are those of `tag`. Inputs that are ready together travel together, and
        the last one at hand never waits for the next. `window` is the number of inputs read ahead of the last result; a
        long input counts as several (see Feed). What is wrong with an input is in its `Result.error`. A stream that
        breaks is resumed, with nothing lost or doubled. What the source raises is raised after the results of what it
        gave before. A plain iterable is read in a thread.

        To stop early, close the iterator (`contextlib.aclosing`) or cancel the task.
        """
        batches = self.stream_batches(inputs, scores=scores, tags=tags, min_probability=min_probability, window=window)
        async with aclosing(batches):
            async for results in batches:
                for result in results:
                    yield result

    async def stream_batches(
        self,
        inputs: Iterable[Input] | AsyncIterable[Input],
        *,
        scores: bool = False,
        tags: bool = False,
        min_probability: float | None = None,
        window: int = 1024,
    ) -> AsyncGenerator[list[Result], None]:
        """As `stream`, with the results that arrive together in one list: after each list is a good time to flush."""
        if isinstance(inputs, str):
            raise TypeError("stream() takes an iterable of inputs, got one str: use tag() for one text")
        options = wire.options(scores, tags, min_probability)
        ids = itertools.count(1)

        async def open_call() -> tuple[Call, Pack]:
            limits = (await self._known_model()).limits
            pack = partial(
                wire.pack,
                limits=limits,
                options=options,
                ids=ids,
                most_inputs=min(_STREAM_INPUTS, limits.max_inputs),
                most_bytes=min(_STREAM_BYTES, limits.max_request_bytes),
            )
            return self._stub().StreamTag(metadata=self.connection.metadata), pack

        await self._known_model()  # what is wrong with the server is known before the source is touched
        stream = Stream(
            Feed(inputs, window),
            self.connection,
            open_call=open_call,
            unpack=partial(self._unpack, tags),
            forget=self._forget,
            most_inputs=_STREAM_INPUTS,
        )
        async with aclosing(stream.batches()) as batches:
            async for results in batches:
                yield results

    async def model(self, version: str = "") -> Model:
        """The model that serves now, or an earlier version of it, by Result.model_version."""
        message = await self.connection.unary(self._stub().GetModel, pb.GetModelRequest(version=version))
        model = wire.model(message)
        self._tables[model.version] = model.tags
        if not version:
            self._model = model
        return model

    async def health(self) -> str:
        """The server's own word on its health: "SERVING", "NOT_SERVING" or "SERVICE_UNKNOWN"."""
        ask = health_pb2_grpc.HealthStub(self.connection.channel()).Check
        try:
            reply = await self.connection.unary(ask, health_pb2.HealthCheckRequest(service=SERVICE))
        except NotFound:
            return "SERVICE_UNKNOWN"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))

    def _forget(self) -> None:
        """Drops what the server said of itself: the one that answers next may have other limits and tag tables."""
        self._model = None
        self._tables.clear()

    def _stub(self) -> Any:
        return TaggerStub(self.connection.channel())  # type: ignore[no-untyped-call]

    async def _known_model(self) -> Model:
        self.connection.channel()
        return self._model or await self.model()

    async def _unpack(self, tags: bool, request: wire.Request, response: pb.TagResponse) -> list[Result]:
        table = None
        if tags and not response.HasField("error"):
            table = self._tables.get(response.model_version) or (await self.model(response.model_version)).tags
        return wire.unpack(request, response, table)
