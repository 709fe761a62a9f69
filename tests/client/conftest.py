"""A real gRPC server with a rule for a model: a run of capitalised words is a name."""

import asyncio
import itertools
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.code_pb2 import INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health_aio
from grpc_status import rpc_status

from ner.v1 import admin_pb2_grpc, tagger_pb2_grpc
from ner.v1 import tagger_pb2 as pb
from nerclient import Client, Retry

TABLE = ["O", "B-ORG", "I-ORG", "B-PER", "I-PER"]


def label_of(word: str) -> str:
    return "ORG" if len(word) % 2 else "PER"


def tag(words: Sequence[str]) -> list[str]:
    tags: list[str] = []
    for word in words:
        if not word[:1].isupper():
            tags.append("O")
        elif tags and tags[-1] != "O":
            tags.append("I" + tags[-1][1:])
        else:
            tags.append("B-" + label_of(word))
    return tags


class Tagger:
    """The servicer and its faults. A word POISON is refused alone, REFUSE refuses its whole request."""

    def __init__(self) -> None:
        self.version = "en/000001"
        self.table = TABLE
        self.limits = pb.Limits(
            max_inputs=64,
            max_request_bytes=100_000,
            max_text_bytes=50_000,
            max_sentence_tokens=1000,
            stream_window=1024,
        )
        self.gate = asyncio.Event()  # nothing is answered until it is set
        self.gate.set()
        self.received = asyncio.Condition()
        self.requests: list[pb.TagRequest] = []  # every one read, on streams and alone
        self.model_calls: list[str] = []  # the versions asked for
        self.breaks: list[int] = []  # stream i ends with `broken` after that many answers, at the next request
        self.breaks_unread = False  # or at once, while the caller may be writing
        self.broken = grpc.StatusCode.UNAVAILABLE
        self.streams = 0
        self.ended = asyncio.Event()  # a stream has ended, in whatever way
        self.half_closed = 0  # streams that ended because the caller had no more to send
        self.busy: list[float | None] = []  # Tag call i is refused as full, with that delay asked for
        self.busy_streams: list[float | None] = []  # the same of StreamTag
        self.forge: dict[str, Any] = {}  # fields to falsify in every response
        self.scoreless = False  # scores are not offered
        self.unary_error: tuple[grpc.StatusCode, str] | None = None

    async def StreamTag(  # noqa: N802
        self, requests: AsyncIterator[pb.TagRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.TagResponse]:
        left: float = self.breaks[self.streams] if self.streams < len(self.breaks) else float("inf")
        self.streams += 1
        if self.busy_streams:
            await self._refuse(context, self.busy_streams.pop(0))
        queue: asyncio.Queue[pb.TagRequest | None] = asyncio.Queue()

        async def read() -> None:
            async for request in requests:
                await self._receive(request)
                queue.put_nowait(request)
            queue.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while True:
                if left == 0 and self.breaks_unread:
                    await context.abort(self.broken, "broken on purpose")
                request = await queue.get()
                if request is None:
                    break
                if left == 0:
                    await context.abort(self.broken, "broken on purpose")
                await self.gate.wait()
                yield self._answer(request)
                left -= 1
            self.half_closed += 1
        finally:
            reader.cancel()
            self.ended.set()

    async def Tag(  # noqa: N802
        self, request: pb.TagRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.TagResponse:
        await self._receive(request)
        await self.gate.wait()
        if self.unary_error:
            await context.abort(*self.unary_error)
        if self.busy:
            await self._refuse(context, self.busy.pop(0))
        return self._answer(request)

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.Model:
        self.model_calls.append(request.version)
        if request.version == "en/000099":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no version en/000099 was served; see GetModel")
        model = pb.Model(
            name="en",
            version=request.version or self.version,
            labels=["ORG", "PER"],
            tags=self.table,
            metrics={"dev_f1": 0.5},
            limits=self.limits,
            sha256="ab" * 32,
        )
        model.create_time.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
        return model

    async def until_received(self, inputs: int) -> None:
        """Waits until that many inputs have come."""
        async with self.received:
            await self.received.wait_for(lambda: sum(map(count_of, self.requests)) >= inputs)

    async def _refuse(self, context: grpc.aio.ServicerContext[Any, Any], delay_s: float | None) -> None:
        status = Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="the queue is full")
        if delay_s is not None:
            info = RetryInfo()
            info.retry_delay.FromTimedelta(timedelta(seconds=delay_s))
            status.details.add().Pack(info)
        await context.abort_with_status(rpc_status.to_status(status))

    async def _receive(self, request: pb.TagRequest) -> None:
        async with self.received:
            self.requests.append(request)
            self.received.notify_all()

    def _answer(self, request: pb.TagRequest) -> pb.TagResponse:
        response = pb.TagResponse(id=request.id, model_version=self.version)
        if request.HasField("packed"):
            words = iter(request.packed.tokens.split("\n"))
            inputs: list[str | list[str]] = [list(itertools.islice(words, n)) for n in request.packed.lengths]
            assert not request.packed.tokens or next(words, None) is None, "lengths do not sum up"
        else:
            inputs = [i.text if i.WhichOneof("content") == "text" else list(i.tokens.tokens) for i in request.inputs]
        if any("REFUSE" in given for given in inputs):
            response.error.CopyFrom(Status(code=INVALID_ARGUMENT, message="the request is malformed"))
            return response
        if request.options.scores and self.scoreless:
            response.error.CopyFrom(Status(code=UNIMPLEMENTED, message="TagOptions.scores is not built in this server"))
            return response
        for given in inputs:
            response.outcomes.append(self._outcome(given, request.options))
        for name, value in self.forge.items():
            setattr(response, name, value)
        return response

    def _outcome(self, given: str | list[str], options: pb.TagOptions) -> pb.Outcome:
        if "POISON" in given:
            return pb.Outcome(error=Status(code=INVALID_ARGUMENT, message="over max_sentence_tokens of 1000: split it"))
        if "CRASH" in given:
            return pb.Outcome(error=Status(code=INTERNAL, message="error id 1234"))
        spans = [m.span() for m in re.finditer(r"\S+", given)] if isinstance(given, str) else None
        words = [given[a:b] for a, b in spans] if isinstance(given, str) and spans is not None else list(given)
        starts, ends = zip(*spans, strict=True) if spans else (range(len(words)), range(1, len(words) + 1))
        tags = tag(words)
        tagged = pb.Tagged()
        for i, name in enumerate(tags):
            if name.startswith("B-"):
                end = next((j for j in range(i + 1, len(tags)) if not tags[j].startswith("I-")), len(tags))
                entity = tagged.entities.add(start=starts[i], end=ends[end - 1], label=name[2:])
                if options.HasField("min_probability"):
                    entity.score = 0.5
                    if options.min_probability <= 0.25:
                        tagged.entities.add(start=starts[i], end=ends[end - 1], label="MISC", score=0.25)
                elif options.scores:
                    entity.score = 0.5
        if options.tags:
            tagged.tags.ids = bytes(map(self.table.index, tags))
            if isinstance(given, str):
                tagged.tags.starts.extend(starts)
                tagged.tags.ends.extend(ends)
        return pb.Outcome(tagged=tagged)


def count_of(request: pb.TagRequest) -> int:
    return len(request.packed.lengths) if request.HasField("packed") else len(request.inputs)


class Door(grpc.aio.ServerInterceptor):
    """Notes every call that comes in: its method and its authorizations."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        tokens = [value for key, value in details.invocation_metadata if key == "authorization"]
        self.calls.append((details.method.rpartition("/")[2], tokens))
        return await continuation(details)


@dataclass
class Server:
    """A tagger that listens, with `credentials` over TLS, and has an Admin if it is given one."""

    tagger: Tagger = field(default_factory=Tagger)
    admin: admin_pb2_grpc.AdminServicer | None = None
    credentials: grpc.ServerCredentials | None = None
    door: Door = field(default_factory=Door)
    health: grpc_health_aio.HealthServicer = field(default_factory=grpc_health_aio.HealthServicer)
    address: str = "127.0.0.1:0"

    async def start(self) -> None:
        self.grpc = grpc.aio.server(interceptors=[self.door], options=[("grpc.so_reuseport", 0)])
        tagger_pb2_grpc.add_TaggerServicer_to_server(self.tagger, self.grpc)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.grpc)
        if self.admin is not None:
            admin_pb2_grpc.add_AdminServicer_to_server(self.admin, self.grpc)  # type: ignore[no-untyped-call]
        await self.set_health("SERVING")
        if self.credentials is None:
            port = self.grpc.add_insecure_port(self.address)
        else:
            port = self.grpc.add_secure_port(self.address, self.credentials)
        self.address = f"127.0.0.1:{port}"
        await self.grpc.start()

    async def stop(self) -> None:
        await self.grpc.stop(0)

    async def restart(self) -> None:
        """As another process would at the same address: the same version, another tag table, smaller texts."""
        await self.stop()
        self.tagger.table = TABLE[::-1]
        self.tagger.limits.max_text_bytes = 10
        await self.start()

    async def set_health(self, status: str) -> None:
        await self.health.set("ner.v1.Tagger", health_pb2.HealthCheckResponse.ServingStatus.Value(status))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    server.tagger.gate.set()
    await server.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.address, timeout_s=20, retry=Retry(attempts=5, first_s=0.001, longest_s=0.01)) as client:
        yield client


@dataclass(frozen=True)
class Run:
    """What a command did."""

    code: int | None
    out: str
    err: str


class Command:
    """Runs `python -m nerclient` as a process of its own."""

    def __init__(self, address: str, folder: Path) -> None:
        self.folder = folder
        environment = {"NERCLIENT_ADDRESS": address, "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        self.options: dict[str, Any] = {"cwd": folder, "env": environment}

    def arguments(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "nerclient", *arguments]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *self.arguments(*arguments), **self.options, stdin=pipe, stdout=pipe, stderr=pipe
        )

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Run:
        process = await self.start(*arguments)
        out, err = await process.communicate(stdin)
        return Run(process.returncode, out.decode(), err.decode())

    def file(self, name: str, content: bytes | str) -> str:
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name


@pytest.fixture
def nerclient(server: Server, tmp_path: Path) -> Command:
    return Command(server.address, tmp_path)
