"""The life of a server process as its probes see it; signals are tested with the command and with workers."""

import asyncio
import contextlib
import gc
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from ner.v1 import tagger_pb2 as pb
from ner.v1 import tagger_pb2_grpc
from nerserver.errors import StartError
from nerserver.life import serve
from nerserver.server import Server
from nerserver.settings import Settings

REQUEST = pb.TagRequest(inputs=[pb.Input(text="Ada met Acme.")])
BASIS = {"address": "127.0.0.1:0", "device": "cpu", "precision": "float32", "threads": 1, "reload_poll_s": 0.1}


async def get(address: str, path: str) -> tuple[int, str]:
    """Status and body of a probe."""

    def ask() -> tuple[int, str]:
        with contextlib.closing(HTTPConnection(address, timeout=30)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    return await asyncio.to_thread(ask)


async def test_readiness_and_metrics(tmp_path: Path, publish_tiny: Any, until: Any) -> None:
    """A server is ready when it has a model and until it drains, counts what it answers, and then has no probes."""
    announced: asyncio.Future[tuple[Server, str]] = asyncio.get_running_loop().create_future()
    (tmp_path / "en").mkdir()
    settings = Settings(model=tmp_path / "en", http_address="127.0.0.1:0", **BASIS)  # type: ignore[arg-type]
    life = asyncio.create_task(serve(settings, lambda *what: announced.set_result(what)))
    server, address = await announced
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = tagger_pb2_grpc.TaggerStub(channel)  # type: ignore[no-untyped-call]
        assert (await get(address, "/healthz"))[0] == 200
        status, reason = await get(address, "/readyz")
        assert (status, reason.count("\n")) == (503, 1)
        assert "no model is loaded yet" in reason
        publish_tiny(tmp_path / "en", 1)
        await until(lambda: server.engine.model)
        assert (await get(address, "/readyz"))[0] == 200
        stream = stub.StreamTag()
        await stream.write(REQUEST)
        await stream.read()
        assert 'method="StreamTag",outcome="ok",reason=""} 1.0\n' in (await get(address, "/metrics"))[1]
        server.stop()
        assert await get(address, "/readyz") == (503, "the server is draining\n")
    await life
    gc.unfreeze()  # what `serve` set aside for ever
    with pytest.raises(ConnectionRefusedError):
        await get(address, "/healthz")


@pytest.mark.parametrize(
    ("http_address", "said"),
    [("127.0.0.1", "'127.0.0.1' of --http-address is not HOST:PORT"), ("0.0.0.0:0", "add --insecure")],
)
async def test_bad_address_of_probes(folder: Path, http_address: str, said: str) -> None:
    """An address where probes cannot or should not be is refused in one line."""
    settings = Settings(model=folder, http_address=http_address, **BASIS)  # type: ignore[arg-type]
    with pytest.raises(StartError, match=said):
        await serve(settings, lambda *_: None)
