"""One run of inputs over StreamTag, which outlives the streams that carry it."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import grpc

from ner.v1 import tagger_pb2 as pb
from nerclient.connection import Connection
from nerclient.errors import DeadlineExceeded, ProtocolError, ResourceExhausted, Unavailable
from nerclient.feed import Feed
from nerclient.results import Input, Result
from nerclient.wire import Request, refused

_log = logging.getLogger(__name__)
_GOODBYE_S = 1.0  # how long a server that has answered everything may take to end its stream
Call: TypeAlias = grpc.aio.StreamStreamCall[pb.TagRequest, pb.TagResponse]
Pack: TypeAlias = Callable[[list[Input]], list[Request]]


class Stream:
    """Sends what the feed has at hand, and yields the answers in order.

    `pending` holds every request without an answer, oldest first. A stream that breaks, or that a full server asks to
    come back later, is opened again and all of `pending` is sent again: answers come in the order of requests, so none
    is lost and none comes twice. `open_call` also says how to pack for the server as it is now, and `forget` is told of
    every break.
    """

    def __init__(
        self,
        feed: Feed,
        connection: Connection,
        *,
        open_call: Callable[[], Awaitable[tuple[Call, Pack]]],
        unpack: Callable[[Request, pb.TagResponse], Awaitable[list[Result]]],
        forget: Callable[[], None],
        most_inputs: int,
    ) -> None:
        self._feed = feed
        self._connection = connection
        self._open_call = open_call
        self._unpack = unpack
        self._forget = forget
        self._most_inputs = most_inputs
        self._pending: deque[Request] = deque()
        self._progress = asyncio.Event()  # something is pending, or the writer is done
        self._failures = 0  # in a row, with no answer between them

    async def batches(self) -> AsyncGenerator[list[Result], None]:
        """The results of one request at a time."""
        try:
            while True:
                call, pack = await self._open_call()
                self._pending = deque(pack([item.input for request in self._pending for item in request.items]))
                writer = asyncio.create_task(self._write(call, pack))
                writer.add_done_callback(lambda _: self._progress.set())
                try:
                    while results := await self._next(call, writer):
                        yield results
                    await self._part(call)
                    break
                except (Unavailable, ResourceExhausted) as error:
                    delay_s = self._delay_s(error)
                finally:
                    call.cancel()
                    writer.cancel()
                    await asyncio.wait([writer])
                _log.info("the stream to %s broke and is opened again in %.1f s", self._connection.address, delay_s)
                await asyncio.sleep(delay_s)
            if self._feed.error is not None:
                raise self._feed.error
        finally:
            await self._feed.aclose()

    async def _write(self, call: Call, pack: Pack) -> None:
        """Sends what is pending, then what the feed has, until it ends or the call breaks, which the reader sees."""
        try:
            for request in list(self._pending):
                await self._send(call, request)
            while inputs := await self._feed.take(self._most_inputs):
                requests = pack(inputs)
                self._pending.extend(requests)
                self._progress.set()
                for request in requests:
                    await self._send(call, request)
            await call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            pass

    async def _send(self, call: Call, request: Request) -> None:
        if request.message is not None:
            await call.write(request.message)

    async def _next(self, call: Call, writer: asyncio.Task[None]) -> list[Result]:
        """The results of the oldest pending request; none when the feed has ended and all is answered."""
        while not self._pending:
            if writer.done():
                writer.result()
                return []
            self._progress.clear()
            await self._progress.wait()
        request = self._pending[0]
        if request.message is None:
            results = [refused(item) for item in request.items]
        else:
            response = await self._read(call)
            self._failures = 0
            results = await self._unpack(request, response)
        self._pending.popleft()
        for result in results:
            self._feed.release(result.input)
        return results

    async def _read(self, call: Call) -> pb.TagResponse:
        try:
            with self._connection.translated():
                async with asyncio.timeout(self._connection.timeout_s):
                    response = await call.read()
        except TimeoutError as error:
            after = f"{self._connection.address} within {self._connection.timeout_s:g} s"
            raise DeadlineExceeded(f"no answer from {after}: try again, or allow more time") from error
        if isinstance(response, pb.TagResponse):
            return response
        raise Unavailable(
            f"the server at {self._connection.address} ended the stream before it had answered everything"
        )

    def _delay_s(self, error: Unavailable | ResourceExhausted) -> float:
        """Seconds to wait after a break; raises the error when it is no use, or enough."""
        self._forget()
        self._failures += 1
        delay_s = self._connection.retry.delay_s(self._failures)
        if isinstance(error, ResourceExhausted):
            if delay_s is None or error.retry_after_s is None or error.retry_after_s > self._connection.timeout_s:
                raise error
            return max(delay_s, error.retry_after_s)
        if delay_s is None:
            raise Unavailable(f"{error} (gave up after {self._failures} attempts)") from error
        return delay_s

    async def _part(self, call: Call) -> None:
        """Lets the server end the stream, so that it sees no cancellation; how it ends no longer matters."""
        with suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                if isinstance(await call.read(), pb.TagResponse):
                    raise ProtocolError(
                        f"the server at {self._connection.address} answered more requests than it was sent"
                    )
