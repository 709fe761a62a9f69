"""The rpcs of ner.v1.Tagger: bytes in, messages out, and everything between as plain objects."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio

from ner.v1 import tagger_pb2 as pb
from nermodel.checkpoint import Model
from nermodel.tagger import Answer
from nerserver import wire
from nerserver.batcher import Batcher
from nerserver.engine import Engine
from nerserver.errors import (
    DeadlineError,
    Failure,
    InvalidError,
    NotFoundError,
    RequestError,
    UnavailableError,
    log_failure,
)
from nerserver.metrics import Metrics
from nerserver.settings import Settings
from nerserver.splitting import Split, split_all
from nerserver.stream import Stream, Window, Work

NAME = pb.DESCRIPTOR.services_by_name["Tagger"].full_name
ASIDE_ITEMS = 4096  # a response over more than so many tokens and entities is built off the event loop
WINDOW_REQUESTS = 4  # of the largest size, that a stream's window holds

NO_MODEL = "no model is loaded yet; send again when the server's health is SERVING"

Context = grpc.aio.ServicerContext[Any, Any]


class Service:
    """Answers calls with the engine's model, through the batcher; `thread` is for work over long texts."""

    def __init__(
        self, settings: Settings, engine: Engine, batcher: Batcher[Model], thread: Executor, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._engine = engine
        self._batcher = batcher
        self._thread = thread
        self._draining = False
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._streams: set[Stream[pb.TagResponse]] = set()

    def handlers(self) -> grpc.GenericRpcHandler:
        """For a server. Requests come as bytes: gRPC makes UNKNOWN and a traceback of a failing parser."""
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "Tag": grpc.unary_unary_rpc_method_handler(
                    self.tag, response_serializer=pb.TagResponse.SerializeToString
                ),
                "StreamTag": grpc.stream_stream_rpc_method_handler(
                    self.stream_tag, response_serializer=pb.TagResponse.SerializeToString
                ),
                "GetModel": grpc.unary_unary_rpc_method_handler(
                    self.get_model, response_serializer=pb.Model.SerializeToString
                ),
            },
        )

    @property
    def calls(self) -> int:
        """Calls of Tag and StreamTag in flight."""
        return self._calls

    @property
    def streams(self) -> int:
        """Streams among them."""
        return len(self._streams)

    def drain(self) -> None:
        """Take no more work: new calls are refused, streams end once what they read is answered."""
        self._draining = True
        for stream in self._streams:
            stream.stop()

    async def drained(self) -> None:
        """Wait until no call is left."""
        await self._idle.wait()

    async def tag(self, data: bytes, context: Context) -> pb.TagResponse:
        """Answer one request; what it is refused for ends the call with a code (see tagger.proto)."""
        with self._call():
            try:
                with self._metrics.request("Tag"):
                    self._check_ready()
                    request = wire.read(wire.decode(pb.TagRequest, data), len(data), self._settings)
                    return await self._answer(request, context.peer(), _deadline(context), wait=False)
            except RequestError as refusal:
                await _abort(context, refusal)

    async def stream_tag(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer each request of a stream, the refused ones too in their place (see tagger.proto)."""
        with self._call():
            try:
                self._check_ready()
                window = Window(self._settings.stream_window, WINDOW_REQUESTS * self._settings.max_request_bytes)
                stream = Stream(requests, self._beginner(_deadline(context)), context.write, window)
                self._streams.add(stream)
                try:
                    await stream.run()
                finally:
                    self._streams.remove(stream)
                if not stream.read_all:
                    self._check_ready()
            except RequestError as refusal:
                await _abort(context, refusal)

    async def get_model(self, data: bytes, context: Context) -> pb.Model:
        """Describe a model that serves or has served (see tagger.proto)."""
        try:
            return self._model(wire.decode(pb.GetModelRequest, data))
        except RequestError as refusal:
            await _abort(context, refusal)

    def _beginner(self, deadline: float) -> Callable[[bytes], Work[pb.TagResponse]]:
        """What makes the work of each request of one stream; one that is refused is answered so in its place."""
        by_completion: bool | None = None
        source = object()

        def begin(data: bytes) -> Work[pb.TagResponse]:
            nonlocal by_completion
            request_id, inputs = "", 1
            try:
                message = wire.decode(pb.TagRequest, data)
                request_id = message.id
                request = wire.read(message, len(data), self._settings)
                if by_completion not in (None, request.by_completion):
                    raise InvalidError(
                        "TagOptions.ordering differs from earlier requests of this stream; send the same in all"
                    )
                by_completion = request.by_completion
                inputs = max(len(request.inputs), 1)
                answer = partial(self._answer_in_stream, request, source, deadline)
            except RequestError as refusal:
                self._metrics.refused("StreamTag", refusal)
                answer = partial(_same, wire.error_response(request_id, refusal))
            except Exception as error:
                self._metrics.failed("StreamTag")
                answer = partial(_same, wire.error_response(request_id, log_failure(error)))
            return Work(inputs, len(data), bool(by_completion), answer)

        return begin

    async def _answer_in_stream(self, request: wire.Request, source: Hashable, deadline: float) -> pb.TagResponse:
        try:
            with self._metrics.request("StreamTag"):
                return await self._answer(request, source, deadline, wait=True)
        except (DeadlineError, UnavailableError):
            raise
        except RequestError as refusal:
            return wire.error_response(request.id, refusal)
        except Exception as error:
            return wire.error_response(request.id, log_failure(error))

    async def _answer(self, request: wire.Request, source: Hashable, deadline: float, wait: bool) -> pb.TagResponse:
        """Split, tag and answer one request."""
        model = self._engine.model
        assert model is not None  # it is never taken away
        if request.model not in ("", model.name):
            raise InvalidError(
                f"no model of the name in TagRequest.model serves here; send {model.name!r} or leave it empty"
            )
        self._batcher.check(source, deadline, request.bulk, wait)  # splitting may cost seconds
        began = time.perf_counter()
        parts = await self._split(request)
        tokenize_s = time.perf_counter() - began
        sentences = [words for part in parts if isinstance(part, Split) for words in part.sentences]
        timing = pb.Timing(tokenize_us=_us(tokenize_s))
        answers: Sequence[Answer | Failure] = ()
        if sentences:
            reply = await self._batcher.tag(sentences, source, deadline, request.bulk, wait, request.ask)
            answers, model = reply.answers, reply.model or model
            timing.queue_us, timing.compute_us = _us(reply.queue_s), _us(reply.compute_s)
            timing.batch_size = reply.batch_size
            self._metrics.queued(reply.queue_s)
        results = _results(parts, answers)
        for result in results:
            if not isinstance(result, wire.Found):
                self._metrics.bad_input("refused" if isinstance(result, InvalidError) else "failed")
        respond = partial(wire.response, request, results, model.version, timing)
        if sum(map(_items, answers)) <= ASIDE_ITEMS:
            return respond()
        return await asyncio.get_running_loop().run_in_executor(self._thread, respond)

    async def _split(self, request: wire.Request) -> list[Split | InvalidError]:
        """The sentences of each input, or the limit it breaks."""
        limits = self._settings
        parts: list[Split | InvalidError] = []
        texts: dict[int, str] = {}  # by row
        for row, content in enumerate(request.inputs):
            if isinstance(content, list):
                parts.append(Split([content] if content else [], []))
            elif (size := len(content.encode())) > limits.max_text_bytes:
                broken = f"the text has {size} bytes, more than max_text_bytes = {limits.max_text_bytes}"
                parts.append(InvalidError(f"{broken}; send it in parts"))
            else:
                texts[row] = content
                parts.append(Split([], []))
        for row, part in zip(texts, await split_all(list(texts.values()), self._thread), strict=True):
            parts[row] = part
        for row, each in enumerate(parts):
            longest = max(map(len, each.sentences), default=0) if isinstance(each, Split) else 0
            if longest > limits.max_sentence_tokens:
                parts[row] = InvalidError(
                    f"a sentence has {longest} tokens, more than max_sentence_tokens = {limits.max_sentence_tokens}; "
                    "send it in parts"
                )
        return parts

    def _model(self, request: pb.GetModelRequest) -> pb.Model:
        if self._engine.model is None:
            raise UnavailableError(NO_MODEL)
        known = self._engine.served.get(request.version or self._engine.model.version)
        if known is None or request.name not in ("", known.name):
            raise NotFoundError(f"no such model was served by this process; it serves {self._engine.model.version!r}")
        return wire.model_message(known, self._settings)

    def _check_ready(self) -> None:
        if self._draining:
            raise UnavailableError("the server is draining; send again to another, or to this one when it is back")
        if self._engine.model is None:
            raise UnavailableError(NO_MODEL)

    @contextmanager
    def _call(self) -> Iterator[None]:
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()


def _results(
    parts: Sequence[Split | InvalidError], answers: Sequence[Answer | Failure]
) -> list[wire.Found | InvalidError | Failure]:
    """The result of each input, from the answers to all sentences of all inputs."""
    rest = iter(answers)
    results: list[wire.Found | InvalidError | Failure] = []
    for part in parts:
        if isinstance(part, InvalidError):
            results.append(part)
            continue
        found = [next(rest) for _ in part.sentences]
        failures = [each for each in found if isinstance(each, Failure)]
        good = [each for each in found if not isinstance(each, Failure)]
        results.append(failures[0] if failures else wire.Found(good, part.offsets))
    return results


def _items(answer: Answer | Failure) -> int:
    return 0 if isinstance(answer, Failure) else len(answer.tags) + len(answer.entities)


def _deadline(context: Context) -> float:
    """When the call's deadline passes, by the monotonic clock."""
    remaining = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining


async def _abort(context: Context, refusal: RequestError) -> NoReturn:
    await context.abort(wire.CODES[type(refusal)], str(refusal), wire.details(refusal))


async def _same(response: pb.TagResponse) -> pb.TagResponse:
    return response


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
