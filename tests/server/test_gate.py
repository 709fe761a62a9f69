"""Who gets in, over real gRPC: every method of every arity, by its token, and only so many at once."""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from tests.conftest import Figure

from ner.v1 import admin_pb2
from ner.v1 import tagger_pb2 as pb
from nerserver.gate import WATCHES, Gate, Tokens
from nerserver.guard import Guard
from nerserver.server import Server
from nerserver.settings import Settings

TOKEN, ADMIN_TOKEN = "tagging-0123456789-ABCDEF", "admin-0123456789-ABCDEF"
TAGGER, ADMIN, HEALTH = "ner.v1.Tagger", "ner.v1.Admin", "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
ARITIES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Call = tuple[str, str]  # a method's path and arity


def methods() -> list[Call]:
    """Every method that a server has or might have, but those of health."""
    files = (pb.DESCRIPTOR, admin_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    described = [
        (
            f"/{service.full_name}/{method.name}",
            "_".join(map(_kind, (method.client_streaming, method.server_streaming))),
        )
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    ]
    return described + [(f"/test.Echo/{arity}", arity) for arity in ARITIES] + [("/test.Echo/nobody", "unary_unary")]


def _kind(streams: bool) -> str:
    return "stream" if streams else "unary"


def wrong(token: str) -> dict[str, list[str]]:
    """What a caller may send in place of a good `authorization`."""
    return {
        "none": [],
        "wrong": [f"Bearer {token[::-1]}"],
        "prefix": [f"Bearer {token[:-1]}"],
        "longer": [f"Bearer {token}x"],
        "empty": ["Bearer "],
        "bare": [token],
        "doubled": [f"Bearer {token}"] * 2,
        "joined": [f"Bearer {token},Bearer {token}"],
        "upper case": [f"Bearer {token.upper()}"],
        "other scheme": [f"Basic {token}"],
        "another's": [f"Bearer {TOKEN if token == ADMIN_TOKEN else ADMIN_TOKEN}"],
    }


async def ends_with(channel: grpc.aio.Channel, call: Call, authorization: list[str], data: bytes = b"") -> Any:
    """The error that a call comes to, or None."""
    path, arity = call
    sends, receives = (part == "stream" for part in arity.split("_"))
    made = getattr(channel, arity)(path)
    # One message at most, before an end: see grpc#36066.
    running = made(iter([data]) if sends else data, metadata=[("authorization", each) for each in authorization])
    try:
        if receives:
            while await running.read() is not grpc.aio.EOF:
                pass
        else:
            await running
    except grpc.aio.AioRpcError as error:
        return error
    return None


@pytest.fixture
def token_files(tmp_path: Path) -> dict[str, Path]:
    """Settings of files that hold one token each."""
    found = {"token_file": tmp_path / "tokens", "admin_token_file": tmp_path / "admin-tokens"}
    for path, token in zip(found.values(), (TOKEN, ADMIN_TOKEN), strict=True):
        path.write_text(f"# a token a line\n\n{token}\n")
        path.chmod(0o600)
    return found


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Methods of the calls that came through a gate."""
    found: list[str] = []
    intercept = Gate.intercept_service

    async def counting(self: Gate, continuation: Any, call: grpc.HandlerCallDetails) -> Any:
        async def reached(details: grpc.HandlerCallDetails) -> Any:
            found.append(details.method)
            return await continuation(details)

        return await intercept(self, reached, call)

    monkeypatch.setattr(Gate, "intercept_service", counting)
    return found


@pytest.fixture
async def echo(token_files: dict[str, Path]) -> AsyncIterator[tuple[Gate, str, grpc.aio.Channel]]:
    """A gate of three calls before echoes of each arity, their address and a channel to them."""

    async def one(data: Any, _: object) -> bytes:
        return data if isinstance(data, bytes) else b"".join([each async for each in data])

    async def many(data: Any, context: Any) -> None:
        await context.write(await one(data, context))

    gate = Gate(Tokens(token_files["token_file"]), None, 3, lambda reason: None)
    server = grpc.aio.server(interceptors=[Guard(), gate])
    handlers = {
        arity: getattr(grpc, f"{arity}_rpc_method_handler")(many if arity.endswith("stream") else one)
        for arity in ARITIES
    }
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("test.Echo", handlers),
            grpc.method_handlers_generic_handler(
                HEALTH, {"Check": handlers["unary_unary"], "Watch": handlers["stream_stream"]}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield gate, f"127.0.0.1:{port}", channel
    await server.stop(None)


@pytest.mark.promise
async def test_matrix(
    serve: Any,
    token_files: dict[str, Path],
    echo: tuple[Gate, str, grpc.aio.Channel],
    called: list[str],
    caplog: pytest.LogCaptureFixture,
    figure: Figure,
) -> None:
    """Authentication: without its token no method of any arity runs a handler, nor tells whether it is served."""
    answers = set()
    tried = 0
    with caplog.at_level(logging.DEBUG):
        async with serve(**token_files, reflection=True) as running:
            for call in methods():
                channel = echo[2] if "test.Echo" in call[0] else running.channel
                token = ADMIN_TOKEN if call[0].startswith(f"/{ADMIN}/") else TOKEN
                for authorization in wrong(token).values():
                    error = await ends_with(channel, call, authorization)
                    answers.add((error.code(), error.details()))
                    tried += 1
            figure(f"{tried} calls of {len(methods())} methods; handler calls {len(called)}")
            assert called == []
            counted = running.server.metrics.registry.get_sample_value
            echoes = sum("test.Echo" in path for path, _ in methods()) * tried // len(methods())
            assert counted("nerserver_turned_away_total", {"reason": "denied"}) == tried - echoes
            assert answers == {
                (grpc.StatusCode.UNAUTHENTICATED, "a known token is needed: send authorization: Bearer TOKEN")
            }
            for path, arity in methods():
                channel = echo[2] if "test.Echo" in path else running.channel
                token = ADMIN_TOKEN if path.startswith(f"/{ADMIN}/") else TOKEN
                error = await ends_with(channel, (path, arity), [f"bEARER {token}"])
                assert error is None or error.code() is not grpc.StatusCode.UNAUTHENTICATED, path
            assert called == [path for path, _ in methods()]
            stub: Any = health_pb2_grpc.HealthStub(running.channel)
            for metadata in ((), (("authorization", "Bearer x"),)):
                answer = await stub.Check(health_pb2.HealthCheckRequest(), metadata=metadata)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert TOKEN[:8] not in caplog.text
    assert ADMIN_TOKEN[:8] not in caplog.text


async def test_plaintext_tokens(token_files: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    """Tokens that would go over a network in plaintext are warned of, and those that stay on the machine are not."""
    for address in ("127.0.0.1:0", "0.0.0.0:0"):
        Server(Settings(address=address, insecure=True, device="cpu", **token_files))  # type: ignore[arg-type]
    [record] = caplog.records
    assert "tokens go to 0.0.0.0:0 in plaintext" in record.getMessage()


async def test_without_admin_tokens(serve: Any, token_files: dict[str, Path]) -> None:
    """Without admin tokens there is no admin service, and tagging's token does not open one."""
    async with serve(token_file=token_files["token_file"]) as running:
        error = await ends_with(running.channel, (f"/{ADMIN}/ListVersions", "unary_unary"), [f"Bearer {TOKEN}"])
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_admin_tokens_alone(serve: Any, token_files: dict[str, Path]) -> None:
    """With admin tokens alone tagging is open to all, and admin is not."""
    async with serve(admin_token_file=token_files["admin_token_file"]) as running:
        assert (await running.stub.Tag(pb.TagRequest(inputs=[pb.Input(text="Ada")]))).outcomes
        error = await ends_with(running.channel, (f"/{ADMIN}/ListVersions", "unary_unary"), [])
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("arity", ARITIES)
async def test_denied_early(echo: tuple[Gate, str, grpc.aio.Channel], arity: str) -> None:
    """Who is denied is told so before having sent all, and what was sent is not read."""
    made = getattr(echo[2], arity)(f"/test.Echo/{arity}")
    running = made() if arity.startswith("stream") else made(bytes(3 << 20))
    assert await running.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_rotation(echo: tuple[Gate, str, grpc.aio.Channel], token_files: dict[str, Path], caplog: Any) -> None:
    """Several tokens hold at once, and a new file holds from the next call on; one that is bad does not."""
    path, channel = token_files["token_file"], echo[2]
    new = "new-0123456789-ABCDEF"

    async def get_in() -> list[bool]:
        calls = [
            ends_with(channel, ("/test.Echo/unary_unary", ARITIES[0]), [f"Bearer {each}"]) for each in (TOKEN, new)
        ]
        return [await each is None for each in calls]

    assert await get_in() == [True, False]
    path.write_text(f"{TOKEN}\n{new}  \n")
    assert await get_in() == [True, True]
    path.write_text("short\n")
    assert await get_in() == [True, True]
    assert caplog.text.count("line 1: a token is 16 to 1024 characters") == 1
    path.write_text(new)
    assert await get_in() == [False, True]
    path.unlink()
    assert await get_in() == [False, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token; write one a line: openssl rand -hex 32"),
        ("# nothing but this\n\n", "holds no token"),
        (f"{TOKEN}\nsecret-too-shor", "line 2: a token is 16 to 1024 characters"),
        (f"{TOKEN}\n\nsecret with white space", "line 3: a token is"),
        (f"{TOKEN}\nsecret\x00secret\x7fsecret", "line 2: a token is"),
        (f"# one\n{TOKEN}\nsecrét-secrét-secrét", "line 3: a token is ASCII"),
        ("secret" * 200, "line 1: a token is"),
        (
            "".join(f"secret-0123456789-{number}\n" for number in range(1001)),
            "holds 1001 tokens, expected at most 1000",
        ),
    ],
)
def test_bad_tokens(tmp_path: Path, text: str, said: str) -> None:
    """A bad file of tokens is refused by the number of a line, and the line is not repeated."""
    (tmp_path / "tokens").write_text(text)
    (tmp_path / "tokens").chmod(0o600)
    with pytest.raises(ValueError, match=said) as refused:
        Tokens(tmp_path / "tokens")
    assert "secr" not in str(refused.value)


def test_tokens_of_others(tmp_path: Path) -> None:
    """A file of tokens that others can read is refused."""
    (tmp_path / "tokens").write_text(TOKEN)
    (tmp_path / "tokens").chmod(0o644)
    with pytest.raises(ValueError, match="run: chmod 600"):
        Tokens(tmp_path / "tokens")


async def test_full(echo: tuple[Gate, str, grpc.aio.Channel]) -> None:
    """Beyond the most calls one is told when to try again; health has calls of its own; one that ends makes room."""
    channel = echo[2]
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    streams: list[Any] = [channel.stream_stream("/test.Echo/stream_stream")(metadata=metadata) for _ in range(3)]
    for stream in streams:
        await stream.write(b"held")
    check = (f"/{HEALTH}/Check", "unary_unary")
    for call in zip((f"/test.Echo/{arity}" for arity in ARITIES), ARITIES, strict=True):
        error = await ends_with(channel, call, [f"Bearer {TOKEN}"])
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "3 calls are in flight, the most there may be; send again after 1.00 s"
        assert "RetryInfo" in rpc_status.from_call(error).details[0].type_url
        assert await ends_with(channel, check, []) is None
    for _ in range(WATCHES):
        streams.append(channel.stream_stream(f"/{HEALTH}/Watch")())
        await streams[-1].write(b"held")
    error = await ends_with(channel, (f"/{HEALTH}/Watch", "stream_stream"), [])
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await ends_with(channel, check, []) is None
    for stream in streams:
        await stream.done_writing()
        await stream.read()
        assert await stream.code() is grpc.StatusCode.OK
    assert await ends_with(channel, check, []) is None
    assert await ends_with(channel, ("/test.Echo/unary_unary", "unary_unary"), [f"Bearer {TOKEN}"]) is None


async def test_room_after_cancels(echo: tuple[Gate, str, grpc.aio.Channel], until: Any) -> None:
    """Calls that are cut off at any moment leave none behind in the count."""
    gate, _, channel = echo
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    for turn in range(300):
        call: Any = channel.stream_unary("/test.Echo/stream_unary")(metadata=metadata)
        if turn % 3:
            await call.write(b"held")
        if turn % 3 == 2:
            await asyncio.sleep(0)
        call.cancel()
    await until(lambda: gate._calls.count == 0)
    assert await ends_with(channel, ("/test.Echo/unary_unary", "unary_unary"), [f"Bearer {TOKEN}"]) is None


async def test_metadata(echo: tuple[Gate, str, grpc.aio.Channel], called: list[str]) -> None:
    """Metadata beyond the limit is refused, also of a caller who heeds no limit of HTTP/2's."""
    fields = {b":method": b"POST", b":path": b"/test.Echo/unary_unary", b":scheme": b"http", b":authority": b"x"}
    fields |= {b"content-type": b"application/grpc", b"te": b"trailers", b"x": bytes(1 << 20).replace(b"\0", b"x")}
    block = b"".join(b"\0" + _literal(name) + _literal(value) for name, value in fields.items())
    parts = [block[start : start + (1 << 14)] for start in range(0, len(block), 1 << 14)]
    reader, writer = await asyncio.open_connection(*echo[1].split(":"))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 0, 1, parts[0]))
    for part in parts[1:-1]:
        writer.write(_frame(9, 0, 1, part))
    writer.write(_frame(9, 4, 1, parts[-1]))
    answer = b""
    while b"grpc-status" not in answer:
        answer += (more := await reader.read(1 << 16))
        assert more, answer
    writer.close()
    assert b"metadata" in answer  # by the gate, or before by gRPC
    assert called == []


def _frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(data))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + data


def _literal(text: bytes) -> bytes:
    """A string of HPACK (RFC 7541, section 5.2)."""
    left, number = len(text) - 127, [min(len(text), 127)]
    while left >= 0:
        number.append(left % 128 + 128 * (left >= 128))
        left = left // 128 or -1
    return bytes(number) + text
