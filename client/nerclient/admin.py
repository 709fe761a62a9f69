"""What the owner of a model may do with a running server: ner.v1.Admin."""

from datetime import UTC
from typing import Any

from ner.v1 import admin_pb2 as pb
from ner.v1.admin_pb2_grpc import AdminStub
from nerclient.client import Client
from nerclient.errors import Unimplemented
from nerclient.results import Version


class Admin:
    """Chooses which version of the model serves, over a Client whose token is one of the server's admin tokens.

        async with Client("127.0.0.1:50051", token=token) as client:
            await Admin(client).pin("en/000002")

    Every call raises NerstreamError's subclasses: Unauthenticated for another token, NotFound for a version that is not
    in the model's folder, Refused for a version that does not prove good, Unimplemented where the server has no Admin.
    """

    def __init__(self, client: Client) -> None:
        self._connection = client.connection

    async def versions(self) -> list[Version]:
        """Every checkpoint in the model's folder, newest first."""
        reply = await self._call("ListVersions", pb.ListVersionsRequest())
        return [_version(version) for version in reply.versions]

    async def pin(self, version: str) -> str:
        """Has the server prove, serve and keep to a version ("en/000002" or "2"), and says what serves then."""
        if not version:
            raise ValueError("no version to pin is given: let go of a pin with unpin()")
        return str((await self._call("Pin", pb.PinRequest(version=version))).version)

    async def unpin(self) -> str:
        """Has the server follow the newest good version again, and says what serves then."""
        return str((await self._call("Pin", pb.PinRequest())).version)

    async def rollback(self) -> str:
        """Pins the version that served before the present one, and says what serves then.

        Sent once, never again by itself: after an error, `versions` tells whether it was done.
        """
        return str((await self._call("Rollback", pb.RollbackRequest(), again=False)).version)

    async def _call(self, name: str, request: Any, *, again: bool = True) -> Any:
        stub = AdminStub(self._connection.channel())  # type: ignore[no-untyped-call]
        try:
            return await self._connection.unary(getattr(stub, name), request, again=again)
        except Unimplemented as error:
            raise Unimplemented(
                f"the server at {self._connection.address} has no ner.v1.Admin: start it with --admin-token-file"
            ) from error


def _version(message: pb.Version) -> Version:
    return Version(
        version=message.version,
        serving=message.serving,
        pinned=message.pinned,
        refused=message.refused,
        update_time=message.update_time.ToDatetime(tzinfo=UTC) if message.HasField("update_time") else None,
        bytes=message.bytes,
    )
