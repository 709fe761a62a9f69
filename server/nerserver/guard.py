"""The outermost layer of every rpc: what nobody caught becomes INTERNAL with an error id, never its own words."""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from nerserver.errors import log_failure

logger = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


class Guard(grpc.aio.ServerInterceptor):
    """Runs every handler, and parses for it what it wants parsed."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[grpc.RpcMethodHandler[Any, Any] | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The guarded handler of a method, of whichever arity."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        behaviour, make = arity(handler)
        guarded = _guarded(behaviour, handler.request_deserializer or bytes, handler.request_streaming)
        made: grpc.RpcMethodHandler[Any, Any] = make(guarded, response_serializer=handler.response_serializer)
        return made


def arity(handler: Any) -> tuple[Any, Any]:
    """What a handler runs, and what makes a handler of the same arity."""
    return {
        (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
        (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
        (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
        (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
    }[handler.request_streaming, handler.response_streaming]


def _guarded(
    behaviour: Any, parse: Callable[[bytes], Any], request_streaming: bool
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def run(data: Any, context: Context) -> Any:
        try:
            answer = behaviour(_parsed(data, parse) if request_streaming else parse(data), context)
            if not inspect.isasyncgen(answer):
                return await answer
            async for response in answer:
                await context.write(response)
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError as error:  # writing to a caller who has left; gRPC ends the call
            logger.debug("a caller left before its answer: %s", type(error).__name__)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the bytes are not a message of the request's type")
        except Exception as error:
            await context.abort(grpc.StatusCode.INTERNAL, str(log_failure(error)))

    return run


async def _parsed(requests: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for data in requests:
        yield parse(data)
