"""Admin and the command `nerclient admin` against a real server with a folder of two versions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.client.conftest import Command, Server

from ner.v1 import admin_pb2 as pb
from ner.v1 import admin_pb2_grpc
from nerclient import Admin, Client, NotFound, Refused, Retry, Unavailable, Unimplemented, Version

if TYPE_CHECKING:
    from pathlib import Path


class Folder(admin_pb2_grpc.AdminServicer):
    """Serves the newest of en/000001 and en/000002, refuses en/000003, and knows no other."""

    def __init__(self) -> None:
        self.serving, self.pinned = "en/000002", ""
        self.calls: list[str] = []
        self.away = False

    async def ListVersions(self, request: Any, context: Any) -> pb.ListVersionsResponse:  # noqa: N802
        response = pb.ListVersionsResponse()
        for number in (3, 2, 1):
            name = f"en/00000{number}"
            version = response.versions.add(
                version=name,
                serving=name == self.serving,
                pinned=name == self.pinned,
                refused="its tags are\nwrong" if number == 3 else "",
                bytes=1_234_567 * number,
            )
            if number > 1:
                version.update_time.FromDatetime(datetime(2026, 1, 2, 3, 4, number))
        return response

    async def Pin(self, request: pb.PinRequest, context: Any) -> pb.PinResponse:  # noqa: N802
        await self._note(f"pin {request.version}", context)
        if request.version == "3":
            await context.abort(grpc.StatusCode.ABORTED, "en/000003 is refused: its tags are wrong")
        if request.version not in ("", "1", "2"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such version in the folder")
        self.pinned = f"en/00000{request.version}" if request.version else ""
        self.serving = self.pinned or "en/000002"
        return pb.PinResponse(version=self.serving)

    async def Rollback(self, request: Any, context: Any) -> pb.RollbackResponse:  # noqa: N802
        await self._note("rollback", context)
        self.serving = self.pinned = "en/000001"
        return pb.RollbackResponse(version=self.serving)

    async def _note(self, call: str, context: Any) -> None:
        self.calls.append(call)
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")


@pytest.fixture
def folder() -> Folder:
    return Folder()


@pytest.fixture
async def server(folder: Folder) -> AsyncIterator[Server]:
    server = Server(admin=folder)
    await server.start()
    yield server
    await server.stop()


async def test_versions(client: Client) -> None:
    """Every checkpoint comes as plain values, newest first."""
    newest, _, oldest = await Admin(client).versions()
    assert newest == Version(
        "en/000003", False, False, "its tags are\nwrong", datetime(2026, 1, 2, 3, 4, 3, tzinfo=UTC), 3_703_701
    )
    assert oldest.update_time is None


async def test_pin_unpin_and_rollback(client: Client, folder: Folder) -> None:
    """Each says what serves then; an empty version is no way to let go."""
    admin = Admin(client)
    assert await admin.pin("1") == "en/000001"
    assert await admin.unpin() == "en/000002"
    assert await admin.rollback() == "en/000001"
    with pytest.raises(ValueError, match=r"unpin\(\)"):
        await admin.pin("")
    assert folder.calls == ["pin 1", "pin ", "rollback"]


async def test_a_version_that_does_not_prove_good(client: Client) -> None:
    """The cause of a refusal is told, and a version that is not there is another matter."""
    with pytest.raises(Refused, match="its tags are wrong"):
        await Admin(client).pin("3")
    with pytest.raises(NotFound, match="no such version"):
        await Admin(client).pin("9")


async def test_rollback_is_never_sent_twice(client: Client, folder: Folder) -> None:
    """A pin is tried again at a server that was reached; a rollback is not, since two would go back two versions."""
    await client.model()
    folder.away = True
    with pytest.raises(Unavailable):
        await Admin(client).pin("1")
    with pytest.raises(Unavailable):
        await Admin(client).rollback()
    assert folder.calls == ["pin 1"] * 5 + ["rollback"]


async def test_a_server_without_admin(tmp_path: Path) -> None:
    """The reason is told, and what to do."""
    server = Server()
    await server.start()
    async with Client(server.address, retry=Retry(attempts=1)) as client:
        with pytest.raises(Unimplemented, match=r"has no ner\.v1\.Admin: start it with --admin-token-file"):
            await Admin(client).rollback()
    await server.stop()


async def test_list(nerclient: Command, folder: Folder) -> None:
    """People get a table with one line a version, programs JSON."""
    folder.pinned = "en/000002"
    run = await nerclient("admin", "list")
    assert run.out.splitlines() == [
        "VERSION    WRITTEN                    SIZE  STATE",
        "en/000003  2026-01-02 03:04:03 UTC  3.7 MB  refused: its tags are wrong",
        "en/000002  2026-01-02 03:04:02 UTC  2.5 MB  serving, pinned",
        "en/000001  -                        1.2 MB  -",
    ]
    assert (run.code, run.err) == (0, "")
    listed = json.loads((await nerclient("admin", "list", "--json")).out)
    assert listed[1] == {
        "version": "en/000002",
        "serving": True,
        "pinned": True,
        "refused": "",
        "update_time": "2026-01-02T03:04:02+00:00",
        "bytes": 2_469_134,
    }


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["pin", "1"], 0, "en/000001\n", ""),
        (["pin", "--newest"], 0, "en/000002\n", ""),
        (["rollback"], 0, "en/000001\n", ""),
        (["pin", "3"], 3, "", "nerclient: en/000003 is refused: its tags are wrong\n"),
        (["pin"], 2, "", "give a VERSION to keep to, or --newest to let go"),
        (["pin", "1", "--newest"], 2, "", "give a VERSION to keep to, or --newest to let go"),
    ],
)
async def test_the_command(nerclient: Command, arguments: list[str], code: int, out: str, err: str) -> None:
    """What serves now is printed; what goes wrong is one line and an exit code."""
    run = await nerclient("admin", *arguments)
    assert (run.code, run.out) == (code, out)
    assert err in run.err
    assert run.err.count("\n") == (1 if err else 0)
