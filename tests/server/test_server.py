"""The server's life: health, reflection, draining, and what keeps it from starting."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ner.v1 import tagger_pb2 as pb
from ner.v1 import tagger_pb2_grpc
from nerserver.errors import StartError
from nerserver.server import Server
from nerserver.settings import MOST, Settings

REQUEST = pb.TagRequest(inputs=[pb.Input(text="Ada met Acme.")])
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(running: Any, service: str) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(running.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


@pytest.mark.parametrize("service", ["", "ner.v1.Tagger"])
async def test_health(serve: Any, tmp_path: Path, publish_tiny: Any, until: Any, service: str) -> None:
    """Health is NOT_SERVING until there is a model, of the whole server and of the service."""
    (tmp_path / "later").mkdir()
    async with serve(model=tmp_path / "later") as running:
        assert await health(running, service) == NOT_SERVING
        publish_tiny(tmp_path / "later", 1)
        await until(lambda: running.server.engine.model)
        assert await health(running, service) == SERVING


async def test_reflection(serve: Any) -> None:
    """Reflection, where it is asked for, lists the service and knows its file."""
    async with serve(reflection=True) as running:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="ner.v1.Tagger"),
        ]
        services, file = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
    assert "ner.v1.Tagger" in {each.name for each in services.list_services_response.service}
    assert b"TagRequest" in file.file_descriptor_response.file_descriptor_proto[0]


async def test_no_reflection(serve: Any) -> None:
    """Unless asked for there is none."""
    async with serve() as running:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ServerReflectionInfo(iter([])).read()
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_most_calls(serve: Any) -> None:
    """Beyond the most calls one is refused, but health answers."""
    async with serve(max_calls=1) as running:
        stream = running.stub.StreamTag()
        await stream.write(REQUEST)
        await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await running.stub.Tag(REQUEST)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await health(running, "") == SERVING


async def test_most_connections(serve: Any) -> None:
    """Beyond the most connections one is closed at once, and each that goes makes room."""
    async with serve(max_connections=2) as running:
        await running.stub.Tag(REQUEST)
        host, _, port = running.server.address.rpartition(":")
        _, held = await asyncio.open_connection(host, port)
        reader, refused = await asyncio.open_connection(host, port)
        assert await reader.read() == b""
        refused.close()
        held.close()

        async def gets_in() -> bool:
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(running.server.address, options) as channel:
                try:
                    stub: Any = tagger_pb2_grpc.TaggerStub(channel)  # type: ignore[no-untyped-call]
                    return bool((await stub.Tag(REQUEST)).outcomes)
                except grpc.aio.AioRpcError:
                    return False

        while not await gets_in():  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0)


async def test_drain(serve: Any, until: Any) -> None:
    """Draining answers all that was read, ends streams with UNAVAILABLE and refuses new calls; health says so first."""
    async with serve() as running:
        stub = running.stub
        watch: Any = health_pb2_grpc.HealthStub(running.channel)
        watcher = watch.Watch(health_pb2.HealthCheckRequest())
        assert (await watcher.read()).status == SERVING
        streams = [stub.StreamTag() for _ in range(3)]
        for stream in streams:
            await stream.write(REQUEST)
            await stream.read()
        with running.engine_held():
            for stream in streams[:2]:
                for _ in range(4):
                    await stream.write(REQUEST)
            call = asyncio.ensure_future(stub.Tag(REQUEST))
            await until(lambda: sum(stream.unanswered for stream in running.server._service._streams) == 8)
            await until(lambda: running.server._service._calls == 4)
            shutdown = asyncio.create_task(running.server.shutdown())
            assert (await watcher.read()).status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as idle:
                await streams[2].read()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Tag(REQUEST)
        for stream in streams[:2]:
            answers = [await stream.read() for _ in range(4)]
            assert all(len(answer.outcomes) == 1 for answer in answers)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await stream.read()
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "draining" in str(ended.value.details())
        assert len((await call).outcomes) == 1
        assert idle.value.code() is refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "draining" in str(idle.value.details())
        await asyncio.wait_for(shutdown, 3)


async def test_drain_has_an_end(serve: Any, until: Any) -> None:
    """What cannot be answered in time is given up."""
    async with serve(drain_s=0.1) as running:
        with running.engine_held():
            call = asyncio.ensure_future(running.stub.Tag(REQUEST))
            await until(lambda: running.server._service._calls)
            await asyncio.wait_for(running.server.shutdown(), 3)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call
    assert ended.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_a_burst_within_the_limits_is_answered(serve: Any) -> None:
    """Calls that come all at once over several connections are answered, every one."""
    async with serve() as running, contextlib.AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        stubs: list[Any] = [
            tagger_pb2_grpc.TaggerStub(  # type: ignore[no-untyped-call]
                await stack.enter_async_context(grpc.aio.insecure_channel(running.server.address, options))
            )
            for _ in range(4)
        ]
        answers = await asyncio.gather(*(stub.Tag(REQUEST) for stub in stubs for _ in range(50)))
    assert len(answers) == 200


async def test_a_watcher_who_does_not_read_holds_up_nobody(serve: Any) -> None:
    """A peer that asks for health and takes no answer keeps the server neither from serving nor from stopping."""
    async with serve() as running:
        reader, writer = await asyncio.open_connection(*running.server.address.split(":"))
        peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        peer.initiate_connection()
        peer.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        told: list[type] = []
        while told.count(h2.events.SettingsAcknowledged) < 2:
            writer.write(peer.data_to_send())
            told += map(type, peer.receive_data(await reader.read(1 << 16)))
        request = {":method": "POST", ":scheme": "http", ":path": "/grpc.health.v1.Health/Watch", ":authority": "x"}
        peer.send_headers(1, [*request.items(), ("te", "trailers"), ("content-type", "application/grpc")])
        peer.send_data(1, b"\0\0\0\0\0", end_stream=True)
        while h2.events.ResponseReceived not in told:
            writer.write(peer.data_to_send())
            told += map(type, peer.receive_data(await reader.read(1 << 16)))
        assert await health(running, "") == SERVING
        await asyncio.wait_for(running.server.shutdown(), 3)
        writer.close()


async def test_a_dead_batcher_ends_the_server(serve: Any) -> None:
    """A bug that kills a background task brings the server down instead of leaving it deaf."""
    async with serve() as running:

        def broken() -> None:
            raise LookupError("bug")

        running.server._batcher._next_batch = broken
        call = asyncio.ensure_future(running.stub.Tag(REQUEST))
        with pytest.raises(LookupError):
            await running.server.main()
        call.cancel()


async def test_largest_settings(serve: Any) -> None:
    """The largest numbers that settings allow are none too large for gRPC."""
    async with serve(max_request_bytes=MOST // 2, max_streams=MOST) as running:
        assert len((await running.stub.Tag(REQUEST)).outcomes) == 1


async def test_stop(serve: Any) -> None:
    """`main` returns when told to."""
    async with serve() as running:
        main = asyncio.create_task(running.server.main())
        running.server.stop()
        await main
        assert running.server.stopping


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "missing"}, "missing: No such file or directory; give --model"),
        ({"model": "others"}, "others holds no checkpoint"),
        ({"model": "bad"}, "000001.safetensors: not a whole safetensors file.*; .*bad has no other that is good"),
        ({"model": "bad/000001.safetensors"}, "000001.safetensors: not a whole safetensors file"),
        ({"address": "0.0.0.0:0"}, "--insecure"),
    ],
)
async def test_does_not_start(folder: Path, changes: dict[str, str], said: str) -> None:
    """What keeps a server from starting is told in one line."""
    (folder.parent / "others").mkdir()
    (folder.parent / "others" / "notes.txt").touch()
    (folder.parent / "bad").mkdir()
    (folder.parent / "bad" / "000001.safetensors").write_bytes(b"x")
    model = folder.parent / changes["model"] if "model" in changes else folder
    settings = Settings(model=model, address=changes.get("address", "127.0.0.1:0"), device="cpu", threads=1)
    with pytest.raises(StartError, match=said) as refused:
        await Server(settings).startup()
    assert "\n" not in str(refused.value)
