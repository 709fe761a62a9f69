"""Strangers who hold connections open; who gets in is in tests/server/test_tls.py and test_gate.py."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.chaos.conftest import Figure, asked, serving, until

from ner.v1 import tagger_pb2_grpc

pytestmark = pytest.mark.chaos
SAID = (b"", b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
CONNECTIONS = 100 * len(SAID)


async def test_silent_connections(tmp_path: Path, figure: Figure) -> None:
    """Silent connections: those that never finish saying HTTP/2 hold their places for a while, and no longer."""

    async def silent(host: str, port: int, said: bytes) -> float:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(said)
        await reader.read()
        writer.close()
        return time.monotonic() - began

    with serving(tmp_path / "log", options=["--max-connections", str(CONNECTIONS)]) as server:
        before = server.descriptors()
        host, _, port = server.address.rpartition(":")
        strangers = [asyncio.create_task(silent(host, int(port), said)) for said in SAID * (CONNECTIONS // len(SAID))]
        await until(lambda: server.descriptors() >= before + CONNECTIONS)
        options = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100)]
        async with grpc.aio.insecure_channel(server.address, options) as channel:
            stub: Any = tagger_pb2_grpc.TaggerStub(channel)  # type: ignore[no-untyped-call]
            began = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as kept_out:
                await stub.Tag(asked([["Ada"]]))
            assert kept_out.value.code() is grpc.StatusCode.UNAVAILABLE
            assert (await stub.Tag(asked([["Ada"]]), wait_for_ready=True, timeout=60)).outcomes
            room_s = time.monotonic() - began
        closed = await asyncio.gather(*strangers)
        await until(lambda: server.descriptors() <= before + 1)  # gRPC keeps one from the first call on
        figure(
            f"{CONNECTIONS} fill the server and are closed after {min(closed):.1f} to {max(closed):.1f} s; a caller "
            f"is kept out for {room_s:.1f} s; descriptors as before"
        )
