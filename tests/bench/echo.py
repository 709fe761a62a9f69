"""A server that gives back what it gets, in the shape of StreamTag: what gRPC takes with no tagger between."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio


async def stream_tag(requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[Any, Any]") -> None:
    """Give each message back."""
    async for data in requests:
        await context.write(data)


async def serve(port: str) -> None:
    """Serve until stopped."""
    server = grpc.aio.server()
    handler: Any = grpc.stream_stream_rpc_method_handler(stream_tag)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ner.v1.Tagger", {"StreamTag": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1]))
