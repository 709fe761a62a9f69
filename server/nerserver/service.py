"""The rpcs of ner.v1.Tagger: bytes in, messages out, and everything between as plain objects."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio

from ner.v1 import tagger_pb2 as pb
from nermodel.checkpoint import Model
from nermodel.tagger import Answer
from nerserver import wire
from nerserver.batcher import Batcher, Reply
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
from nerserver.parts import Parts, is_little, split_aside, split_now
from nerserver.settings import Settings
from nerserver.stream import Pending, Stream, Window, Work

NAME = pb.DESCRIPTOR.services_by_name["Tagger"].full_name
ASIDE_ITEMS = 4096  # a response over more than so many tokens and entities is built off the event loop
WINDOW_REQUESTS = 4  # of the largest size, that a stream's window holds

NO_MODEL = "no model is loaded yet; send again when the server's health is SERVING"

Context = grpc.aio.ServicerContext[Any, Any]
_Told = tuple[pb.TagResponse, Callable[[], None]]  # and what counts it when it is sent


class Service:
    """Answers calls with the engine's model, through the batcher; `thread` is for work over long texts.

    `trace` is told of each request that is answered: Unix time in ns when it began, sentences and timing.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        batcher: Batcher[Model],
        thread: Executor,
        metrics: Metrics,
        trace: Callable[[int, int, pb.Timing], None] = lambda began_ns, sentences, timing: None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._trace = trace
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
                    source, deadline = context.peer(), _deadline(context)
                    self._batcher.check_deadline(source, deadline)  # reading it would only keep others waiting
                    request = wire.read(wire.decode(pb.TagRequest, data), len(data), self._settings)
                    return await self._answer(request, source, deadline, wait=False)
            except RequestError as refusal:
                await wire.abort(context, refusal)

    async def stream_tag(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer each request of a stream, the refused ones too in their place (see tagger.proto)."""
        stream: Stream[pb.TagResponse] | None = None
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
                    self._metrics.cancelled("StreamTag", stream.unanswered)
                if not stream.read_all:
                    self._check_ready()
            except RequestError as refusal:
                if stream is None:
                    self._metrics.refused("StreamTag", refusal)
                await wire.abort(context, refusal)

    async def get_model(self, data: bytes, context: Context) -> pb.Model:
        """Describe a model that serves or has served (see tagger.proto)."""
        try:
            return self._model(wire.decode(pb.GetModelRequest, data))
        except RequestError as refusal:
            await wire.abort(context, refusal)

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
                start = partial(self._start, request, source, deadline)
            except RequestError as refusal:
                start = partial(_done, self._refused(request_id, refusal))
            except Exception as error:
                start = partial(_done, self._failed(request_id, error))
            return Work(inputs, len(data), bool(by_completion), start)

        return begin

    def _start(self, request: wire.Request, source: Hashable, deadline: float) -> Pending[pb.TagResponse]:
        """Begin to answer a request of a stream, without a task where there is little to do besides tagging."""
        if request.ask or not is_little(request.inputs) or not self._batcher.has_room(source, request.bulk):
            return asyncio.create_task(self._answer_in_stream(request, source, deadline)), _told
        began = time.perf_counter()
        try:
            self._check_name(request)
            parts = split_now(request.inputs, self._settings)
            reply = self._batcher.submit(parts.sentences(), source, deadline, request.bulk, request.ask)
        except RequestError as refusal:
            return _done(self._refused(request.id, refusal))
        except Exception as error:
            return _done(self._failed(request.id, error))
        return reply, partial(self._respond_in_stream, request, parts, began)

    def _respond_in_stream(
        self, request: wire.Request, parts: Parts, began: float, reply: Reply[Model]
    ) -> pb.TagResponse:
        try:
            response = self._responder(request, parts, began, reply)()
        except Exception as error:
            return _told(self._failed(request.id, error))
        self._metrics.answered("StreamTag", began)
        return response

    async def _answer_in_stream(self, request: wire.Request, source: Hashable, deadline: float) -> _Told:
        began = time.perf_counter()
        try:
            response = await self._answer(request, source, deadline, wait=True)
        except (DeadlineError, UnavailableError):
            raise
        except RequestError as refusal:
            return self._refused(request.id, refusal)
        except Exception as error:
            return self._failed(request.id, error)
        return response, partial(self._metrics.answered, "StreamTag", began)

    def _refused(self, request_id: str, refusal: RequestError) -> _Told:
        return wire.error_response(request_id, refusal), partial(self._metrics.refused, "StreamTag", refusal)

    def _failed(self, request_id: str, error: Exception) -> _Told:
        return wire.error_response(request_id, log_failure(error)), partial(self._metrics.failed, "StreamTag")

    async def _answer(self, request: wire.Request, source: Hashable, deadline: float, wait: bool) -> pb.TagResponse:
        """Split, tag and answer one request."""
        began = time.perf_counter()
        self._check_name(request)
        self._batcher.check(source, deadline, request.bulk, wait)  # splitting may cost seconds
        parts = await split_aside(request.inputs, self._settings, self._thread)
        reply = await self._batcher.tag(parts.sentences(), source, deadline, request.bulk, wait, request.ask)
        respond = self._responder(request, parts, began, reply)
        if sum(map(_items, reply.answers)) <= ASIDE_ITEMS:
            return respond()
        return await asyncio.get_running_loop().run_in_executor(self._thread, respond)

    def _responder(
        self, request: wire.Request, parts: Parts, began: float, reply: Reply[Model]
    ) -> Callable[[], pb.TagResponse]:
        """What makes the response to a request from the reply to its sentences, in any thread."""
        model = reply.model or self._engine.model
        assert model is not None  # it is never taken away
        timing = pb.Timing(
            tokenize_us=_us(parts.took_s),
            queue_us=_us(reply.queue_s),
            compute_us=_us(reply.compute_s),
            batch_size=reply.batch_size,
        )
        self._metrics.queued(reply.queue_s)
        self._trace(time.time_ns() - int(1e9 * (time.perf_counter() - began)), len(reply.answers), timing)
        results = parts.results(reply.answers)
        for result in results:
            if not isinstance(result, wire.Found):
                self._metrics.bad_input("refused" if isinstance(result, InvalidError) else "failed")
        return partial(wire.response, request, results, model.version, timing)

    def _check_name(self, request: wire.Request) -> None:
        assert self._engine.model is not None
        if request.model not in ("", self._engine.model.name):
            raise InvalidError(
                f"no model of the name in TagRequest.model serves here; send {self._engine.model.name!r} "
                "or leave it empty"
            )

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


def _items(answer: Answer | Failure) -> int:
    return 0 if isinstance(answer, Failure) else len(answer.tags) + len(answer.entities)


def _deadline(context: Context) -> float:
    """When the call's deadline passes, by the monotonic clock."""
    remaining = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining


def _told(made: _Told) -> pb.TagResponse:
    response, count = made
    count()
    return response


def _done(made: _Told) -> Pending[pb.TagResponse]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(made)
    return future, _told


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
