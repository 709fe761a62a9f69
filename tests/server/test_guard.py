"""The guard around handlers of every arity, over real gRPC."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from nerserver.guard import Guard, _guarded


class Handlers:
    """An echo in each arity, which fails on the word "secret"."""

    async def unary_unary(self, request: StringValue, context: Any) -> StringValue:
        return self.echo(request)

    async def unary_stream(self, request: StringValue, context: Any) -> None:
        await context.write(self.echo(request))

    async def stream_unary(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        async for request in requests:
            return self.echo(request)
        raise AssertionError

    async def stream_stream(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield self.echo(request)

    async def aborting(self, request: StringValue, context: Any) -> None:
        await context.abort(grpc.StatusCode.DATA_LOSS, "as meant")

    def echo(self, request: StringValue) -> StringValue:
        if request.value == "secret":
            raise RuntimeError(f"cannot echo {request.value}")
        return request


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of the handlers."""
    server = grpc.aio.server(interceptors=[Guard()])
    handlers = Handlers()
    methods = {
        name: getattr(grpc, f"{name}_rpc_method_handler")(
            getattr(handlers, name), StringValue.FromString, StringValue.SerializeToString
        )
        for name in ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    }
    methods["aborting"] = grpc.unary_unary_rpc_method_handler(
        handlers.aborting, StringValue.FromString, StringValue.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def call(channel: grpc.aio.Channel, arity: str, data: bytes, method: str = "") -> Any:
    """Send one message and take the first answer."""
    request_streaming, response_streaming = (part == "stream" for part in arity.split("_"))
    made: Any = getattr(channel, arity)(f"/test.Echo/{method or arity}")
    answer = made(iter([data]) if request_streaming else data)
    return await answer.read() if response_streaming else await answer


ARITIES = pytest.mark.parametrize("arity", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])


@ARITIES
async def test_answers_pass(channel: grpc.aio.Channel, arity: str) -> None:
    """A handler that works is not changed."""
    data = StringValue(value="hello").SerializeToString()
    assert await call(channel, arity, data) == data


@ARITIES
async def test_uncaught(channel: grpc.aio.Channel, arity: str, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody caught is INTERNAL with an id that the log explains, and neither repeats the request."""
    with caplog.at_level(logging.DEBUG), pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, arity, StringValue(value="secret").SerializeToString())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    details = str(caught.value.details())
    assert details.startswith("internal error ")
    assert details.split(";", maxsplit=1)[0] in caplog.text
    assert "in echo" in caplog.text
    assert "secret" not in details + caplog.text


@ARITIES
async def test_malformed(channel: grpc.aio.Channel, arity: str, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that do not parse are the caller's error, and no news to the log."""
    with caplog.at_level(logging.INFO), pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, arity, b"\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not caplog.records


async def test_abort_passes(channel: grpc.aio.Channel) -> None:
    """A handler's own abort reaches the caller as it is."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "unary_unary", b"", method="aborting")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "as meant")


async def test_unknown_method(channel: grpc.aio.Channel) -> None:
    """A method that nobody serves is UNIMPLEMENTED."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "unary_unary", b"", method="nobody")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_who_has_left_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    """What gRPC raises where an answer can no longer be written is not logged as an error of ours."""

    async def behaviour(data: bytes, context: object) -> None:
        raise grpc.aio.InternalError("Failed grpc_call_start_batch: 10 with grpc_call_error value: 'UNKNOWN'")

    await _guarded(behaviour, bytes, request_streaming=False)(b"", None)  # type: ignore[arg-type]
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
