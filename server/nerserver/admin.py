"""The rpcs of ner.v1.Admin: which version of the model serves; who may ask is another layer's matter."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc
import grpc.aio

from ner.v1 import admin_pb2 as pb
from nerserver import wire
from nerserver.errors import NotFoundError, PreconditionError, RequestError
from nerserver.reload import Reloader, Version

NAME = pb.DESCRIPTOR.services_by_name["Admin"].full_name
Context = grpc.aio.ServicerContext[Any, Any]
ResponseT = TypeVar("ResponseT")


class Admin:
    """Answers calls with what the reloader tells and does."""

    def __init__(self, reloader: Reloader) -> None:
        self._reloader = reloader

    def handlers(self) -> grpc.GenericRpcHandler:
        """For a server. Requests come as bytes, as in `Service.handlers`."""
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "ListVersions": grpc.unary_unary_rpc_method_handler(
                    self.list_versions, response_serializer=pb.ListVersionsResponse.SerializeToString
                ),
                "Pin": grpc.unary_unary_rpc_method_handler(
                    self.pin, response_serializer=pb.PinResponse.SerializeToString
                ),
                "Rollback": grpc.unary_unary_rpc_method_handler(
                    self.roll_back, response_serializer=pb.RollbackResponse.SerializeToString
                ),
            },
        )

    async def list_versions(self, data: bytes, context: Context) -> pb.ListVersionsResponse:
        """Tell of every checkpoint in the folder (see admin.proto)."""
        return await _answer(self._list(data), context)

    async def pin(self, data: bytes, context: Context) -> pb.PinResponse:
        """Serve a version and keep to it, or let go (see admin.proto)."""
        return await _answer(self._pin(data), context)

    async def roll_back(self, data: bytes, context: Context) -> pb.RollbackResponse:
        """Pin the version that served before (see admin.proto)."""
        return await _answer(self._roll_back(data), context)

    async def _list(self, data: bytes) -> pb.ListVersionsResponse:
        wire.decode(pb.ListVersionsRequest, data)
        return pb.ListVersionsResponse(versions=map(_message, await self._reloader.versions()))

    async def _pin(self, data: bytes) -> pb.PinResponse:
        wanted = wire.decode(pb.PinRequest, data).version
        if not wanted:
            return pb.PinResponse(version=await self._reloader.unpin())
        for version in await self._reloader.versions():
            if wanted == version.name or wanted.lstrip("0") == str(version.number):
                return pb.PinResponse(version=await self._reloader.pin(version.number))
        raise NotFoundError("the model's folder holds no such version; list what it holds")

    async def _roll_back(self, data: bytes) -> pb.RollbackResponse:
        wire.decode(pb.RollbackRequest, data)
        return pb.RollbackResponse(version=await self._reloader.roll_back())


async def _answer(work: Awaitable[ResponseT], context: Context) -> ResponseT:
    """What the work comes to; what it is refused for ends the call with a code."""
    try:
        return await work
    except RequestError as refusal:
        await wire.abort(context, refusal)
    except OSError as error:
        cause = f"{error.filename}: {error.strerror}; give the server a folder that it can read and write"
        await wire.abort(context, PreconditionError(cause))


def _message(version: Version) -> pb.Version:
    message = pb.Version(
        version=version.name,
        serving=version.serving,
        pinned=version.pinned,
        refused=version.refused,
        bytes=version.bytes,
    )
    message.update_time.FromNanoseconds(version.updated_ns)
    return message
