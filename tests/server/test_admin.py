"""The admin service over real gRPC: list, pin, roll back, and every error."""

import logging
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.conftest import MakeModel, publish
from tests.server.conftest import POISON, FailingTagger

from ner.v1 import admin_pb2 as pb
from ner.v1 import admin_pb2_grpc, tagger_pb2
from nerserver import server
from nerserver.engine import tagger_for
from nerserver.reload import PIN

Administer = Callable[..., AbstractAsyncContextManager[Any]]
TOKEN = "0123456789abcdef0123456789abcdef"
METADATA = (("authorization", f"Bearer {TOKEN}"),)


class Administered:
    """A running server, and what its owner asks of it."""

    def __init__(self, running: Any) -> None:
        self.server = running.server
        self.tagger = running.stub
        self.stub: Any = admin_pb2_grpc.AdminStub(running.channel)  # type: ignore[no-untyped-call]
        self.raw = running.channel.unary_unary

    async def versions(self) -> list[pb.Version]:
        return list((await self.stub.ListVersions(pb.ListVersionsRequest(), metadata=METADATA)).versions)

    async def pin(self, version: str) -> str:
        return str((await self.stub.Pin(pb.PinRequest(version=version), metadata=METADATA)).version)

    async def roll_back(self) -> str:
        return str((await self.stub.Rollback(pb.RollbackRequest(), metadata=METADATA)).version)

    async def tag(self, text: str) -> str:
        """The version that answers."""
        answer = await self.tagger.Tag(tagger_pb2.TagRequest(inputs=[tagger_pb2.Input(text=text)]))
        assert [outcome.WhichOneof("result") for outcome in answer.outcomes] == ["tagged"]
        return str(answer.model_version)

    def count(self, result: str) -> float:
        """Checkpoints that came to this."""
        return self.server.metrics.registry.get_sample_value("nerserver_reloads_total", {"result": result}) or 0


@pytest.fixture
def administer(serve: Any, tmp_path: Path) -> Administer:
    """Start a server that has an owner."""

    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Administered]:
        file = tmp_path / "tokens"
        file.touch(0o600)
        file.write_text(f"{TOKEN}\n")
        async with serve(admin_token_file=file, **settings) as running:
            yield Administered(running)

    return run


async def test_versions(administer: Administer, folder: Path, publish_tiny: Any, until: Any) -> None:
    """Pins by name and number, roll backs and letting go: each reply, and each answer after it, names what serves.

    Another server of the folder follows.
    """
    for seed in (2, 3):
        publish_tiny(folder, seed)
    bad = folder / "000004.safetensors"
    bad.write_bytes(b"x")
    async with administer() as one, administer() as other:
        newest, *good = await one.versions()
        assert newest.refused.startswith(f"{bad}: not a whole safetensors file")
        assert [each.version for each in good] == ["en/000003", "en/000002", "en/000001"]
        assert [(each.serving, each.pinned, each.refused) for each in good] == [(True, False, "")] + 2 * [
            (False, False, "")
        ]
        stat = (folder / "000003.safetensors").stat()
        assert (good[0].bytes, good[0].update_time.ToNanoseconds()) == (stat.st_size, stat.st_mtime_ns)
        for version in ("en/000001", "2", "000001"):
            pinned = await one.pin(version)
            assert pinned == f"en/00000{version[-1]}" == await one.tag("Ada")
            assert [each.version for each in await one.versions() if each.serving and each.pinned] == [pinned]
            await until(lambda pinned=pinned: other.server.engine.model.version == pinned)
        assert await one.pin("") == "en/000003" == await one.tag("Ada")
        assert await one.roll_back() == "en/000001" == await one.tag("Ada")
        assert not any(each.pinned and each.version != "en/000001" for each in await other.versions())


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), refused.value.details() or ""


async def test_errors(administer: Administer, folder: Path, make_model: MakeModel) -> None:
    """Whatever is refused is told with its code and cause, and changes nothing."""
    async with administer() as owned:
        for method in ("ListVersions", "Pin", "Rollback"):
            code, said = await refusal(owned.raw(f"/ner.v1.Admin/{method}")(b"\xff", metadata=METADATA))
            assert code is grpc.StatusCode.INVALID_ARGUMENT, said
        for version in ("9", "de/000001", "one", "en/1"):
            assert (await refusal(owned.pin(version)))[0] is grpc.StatusCode.NOT_FOUND
        assert await refusal(owned.roll_back()) == (
            grpc.StatusCode.NOT_FOUND,
            "no other version has served in this process; pin one by its number",
        )
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # nothing can be written
        try:
            code, said = await refusal(owned.pin("1"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert f"{folder / PIN}: File too large; give the server a folder" in said
        publish(folder, make_model(2, hidden=400), [])
        code, said = await refusal(owned.pin("2"))
        assert code is grpc.StatusCode.ABORTED
        assert "en/000002: takes " in said
        assert "max_slowdown = 3 times as much" in said
        assert [each.refused for each in await owned.versions()] == [said, ""]
        assert not (folder / PIN).exists()
        assert await owned.tag("Ada") == "en/000001"
    async with administer(model=folder / "000001.safetensors") as owned:
        for call in (owned.versions(), owned.pin("1"), owned.pin(""), owned.roll_back()):
            code, said = await refusal(call)
            assert code is grpc.StatusCode.FAILED_PRECONDITION, said
            assert "give the server a folder" in said


async def test_a_version_that_fails_in_service_is_rolled_back(
    administer: Administer,
    folder: Path,
    publish_tiny: Any,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The one before it answers what it failed at, and serves on; its owner is told why, and no log of the text."""

    def failing(model: Any, *options: Any) -> Any:
        return FailingTagger(model) if model.version == "en/000002" else tagger_for(model, *options)

    monkeypatch.setattr(server, "tagger_for", failing)
    with caplog.at_level(logging.DEBUG):
        async with administer(max_slowdown=1e6) as owned:
            publish_tiny(folder, 2)
            await until(lambda: owned.server.engine.model.version == "en/000002")
            assert await owned.tag("Ada") == "en/000002"
            assert await owned.tag(f"Some {POISON} here.") == await owned.tag("Ada") == "en/000001"
            assert owned.server.engine.model.version == "en/000001"
            bad, good = await owned.versions()
            assert bad.refused.startswith("en/000002: KeyError (error ")
            assert good.serving
            assert (owned.count("loaded"), owned.count("rolled_back"), owned.count("refused")) == (2, 1, 0)
            assert f"rolled back: {bad.refused}" in caplog.messages
            assert POISON not in caplog.text
