"""Processes that are killed, told to stop, or frozen, while others wait for their answers."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.chaos.conftest import STREAM_TAG, TAG, asked, serving, until
from tests.conftest import Figure, MakeModel, publish

from ner.v1 import tagger_pb2 as pb
from nerclient import Client, Retry, connection
from nermodel.checkpoint import load
from nermodel.native import NativeTagger

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]
KILLS = 20
STREAMS = 4
STOPS = 3
FLOAT = ["--precision", "float32"]
# Each request that the server takes, by its id, as it takes it.
TELL = """
from nerserver import wire
taken = open({path!r}, "a", buffering=1)
read = wire.read
def told(message, *rest):
    taken.write(message.id + "\\n")
    return read(message, *rest)
wire.read = told
"""
# Pings so frequent that a frozen peer is noticed within a test.
SHORT_MS = 1000
PING = f"""
from nerserver import server
server.KEEPALIVE_MS = server.PING_TIMEOUT_MS = {SHORT_MS}
"""
# A client that is answered once, and then waits or, with one more argument, goes on asking.
FROZEN = """
import itertools, sys, threading
import grpc
wait = threading.Event().wait
asked = itertools.repeat(bytes(100)) if sys.argv[2:] else iter(lambda: bytes(100) if not asks else wait(), None)
asks = []
call = grpc.insecure_channel(sys.argv[1]).stream_stream({method!r})(asked)
for answer in call:
    if not asks:
        print(flush=True)
    asks.append(answer)
"""


@pytest.fixture
def tiny(tmp_path: Path, make_model: MakeModel) -> Path:
    """A checkpoint that is read in no time."""
    return publish(tmp_path / "en", make_model(), [("Mary", "left", "Oslo")])


async def test_kills(tmp_path: Path, tiny: Path, sentences: list[list[str]], figure: Figure) -> None:
    """A client outlives kill -9 of its server."""
    tagger = NativeTagger(load(tiny, torch.device("cpu")), 1, "float32")
    expected = [answer.entities for answer in tagger.tag(sentences, [None] * len(sentences))]
    enough = asyncio.Event()
    counts: Counter[str] = Counter()

    async def inputs(number: int) -> AsyncIterator[list[str]]:
        """The sentences from one of them on, over and over, until there are enough."""
        while not enough.is_set():
            counts["sent"] += 1
            yield sentences[number % len(sentences)]
            number += 1
            await asyncio.sleep(0)

    async def stream(client: Client, first: int) -> None:
        number = first
        async for result in client.stream(inputs(first)):
            row = number % len(sentences)
            counts["answered"] += 1
            counts["errors"] += result.error is not None
            counts["out of place"] += result.input != sentences[row]
            counts["wrong"] += [each[:3] for each in expected[row]] != [
                (each.start, each.end, each.label) for each in result.entities
            ]
            number += 1

    async def answers(more: int) -> None:
        due = counts["answered"] + more
        await until(lambda: counts["answered"] > due)

    began = time.perf_counter()
    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "log", tiny, FLOAT))
        async with Client(server.address, retry=Retry(attempts=1000, longest_s=0.5)) as client:
            streams = [asyncio.create_task(stream(client, 100 * number)) for number in range(STREAMS)]
            for _ in range(KILLS):
                await answers(100)
                server.signal(signal.SIGKILL)
                server.process.wait()
                server = await asyncio.to_thread(
                    stack.enter_context, serving(tmp_path / "log", tiny, FLOAT, address=server.address)
                )
            enough.set()
            await asyncio.gather(*streams)
    figure(
        f"{KILLS} kills in {time.perf_counter() - began:.0f} s under {STREAMS} streams: of {counts['sent']:,} inputs "
        f"lost {counts['sent'] - counts['answered']}, doubled or reordered {counts['out of place']}, "
        f"wrong {counts['wrong']}, errors {counts['errors']}"
    )
    assert counts["answered"] == counts["sent"]
    assert (counts["out of place"], counts["wrong"], counts["errors"]) == (0, 0, 0)


async def test_sigterm(tmp_path: Path, sentences: list[list[str]], figure: Figure) -> None:
    """SIGTERM under load: what was accepted is answered, exit 0."""
    accepted, answered, late, refused, exits, first = 0, 0, 0, Counter[str](), [], 0
    for turn in range(STOPS):
        taken = tmp_path / f"taken{turn}"
        with serving(tmp_path / "log", options=FLOAT, before=TELL.format(path=str(taken))) as server:
            async with grpc.aio.insecure_channel(server.address) as channel:
                crowd = Crowd(channel, sentences)
                running = asyncio.create_task(crowd.run())
                await crowd.answers(100)
                server.signal(signal.SIGTERM)
                late -= len(crowd.answered)
                await running
                late += len(crowd.answered)
                exits.append(await asyncio.to_thread(server.process.wait, 30))
        read = taken.read_text().split()
        assert len(read) == len(set(read))
        assert len(crowd.answered) == len(set(crowd.answered))
        accepted += len(read)
        answered += len(set(read) & set(crowd.answered))
        assert set(crowd.answered) <= set(read)
        refused += crowd.ended
        first += crowd.told < crowd.left
    figure(
        f"{STOPS} times: accepted {accepted:,}, answered {answered:,}, {late:,} after the signal; exits {exits}; "
        f"health NOT_SERVING before the first refusal {first} of {STOPS}; calls ended {dict(refused)}"
    )
    assert answered == accepted
    assert exits == [0] * STOPS
    assert set(refused) <= {"UNAVAILABLE", "CANCELLED", "lost by grpc"}  # all of which nerclient tries again
    assert "Traceback" not in (tmp_path / "log").read_text()


class Crowd:
    """Eight streams and eight unary callers that ask as much as they may until the server refuses them."""

    def __init__(self, channel: grpc.aio.Channel, sentences: Sequence[Sequence[str]]) -> None:
        self.answered: list[str] = []
        self.ended: Counter[str] = Counter()  # calls, by status
        self.told = self.left = float("inf")  # when health said NOT_SERVING, and when the first call was refused
        self._channel = channel
        self._sentences = sentences
        self._number = 0

    async def run(self) -> None:
        """Ask until the server has refused everybody."""
        await asyncio.gather(self._watch(), *(work() for work in (self._call, self._stream) for _ in range(8)))

    async def answers(self, count: int) -> None:
        """Wait until there are more than so many."""
        await until(lambda: len(self.answered) > count)

    async def _watch(self) -> None:
        stub: Any = health_pb2_grpc.HealthStub(self._channel)
        async for reply in stub.Watch(health_pb2.HealthCheckRequest()):
            if reply.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                self.told = time.perf_counter()
                return

    async def _call(self) -> None:
        tag: Any = self._channel.unary_unary(TAG, pb.TagRequest.SerializeToString, pb.TagResponse.FromString)
        try:
            while True:
                self.answered.append((await tag(self._next())).id)
        except grpc.aio.AioRpcError as error:
            self._end(error)

    async def _stream(self) -> None:
        call: Any = self._channel.stream_stream(
            STREAM_TAG, pb.TagRequest.SerializeToString, pb.TagResponse.FromString
        )()

        async def write() -> None:
            while not call.done():
                try:
                    await call.write(self._next())
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return

        writer = asyncio.create_task(write())
        try:
            async for reply in call:
                self.answered.append(reply.id)
        except grpc.aio.AioRpcError as error:
            self._end(error)
        await writer

    def _next(self) -> pb.TagRequest:
        self._number += 1
        first = 32 * self._number % len(self._sentences)
        return asked(self._sentences[first : first + 32], str(self._number))

    def _end(self, error: grpc.aio.AioRpcError) -> None:
        self.left = min(self.left, time.perf_counter())
        # A write that fails as its stream ends takes the stream's status away (grpc#36066).
        is_lost = error.details() == "Internal error from Core"
        self.ended["lost by grpc" if is_lost else error.code().name] += 1


async def test_frozen_server(
    tmp_path: Path, tiny: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client notices a frozen server within keepalive and ping timeout."""
    pings = {"grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"}
    options = dict(connection._OPTIONS)
    assert pings <= options.keys()
    monkeypatch.setattr(connection, "_OPTIONS", [*(options | dict.fromkeys(pings, SHORT_MS)).items()])
    caplog.set_level("INFO", "nerclient")
    results = 0
    with serving(tmp_path / "log", tiny) as server:
        async with Client(server.address, retry=Retry(attempts=1000, longest_s=0.5)) as client:
            fed: asyncio.Queue[str | None] = asyncio.Queue()

            async def inputs() -> AsyncIterator[str]:
                while (text := await fed.get()) is not None:
                    yield text

            async def stream() -> None:
                nonlocal results
                async for result in client.stream(inputs()):
                    assert result.error is None
                    results += 1

            running = asyncio.create_task(stream())
            fed.put_nowait("Ada")
            await until(lambda: results == 1)
            server.signal(signal.SIGSTOP)
            began = time.perf_counter()
            for _ in range(100):
                fed.put_nowait("Babbage")
            await until(lambda: "broke" in caplog.text)
            noticed_s = time.perf_counter() - began
            server.signal(signal.SIGCONT)
            fed.put_nowait(None)
            await running
    figure(f"keepalive and ping timeout {SHORT_MS} ms each: noticed after {noticed_s:.1f} s, lost {101 - results}")
    assert results == 101
    assert noticed_s < 10


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_frozen_client(tmp_path: Path, tiny: Path, figure: Figure, busy: bool) -> None:
    """A server notices a frozen client within keepalive and ping timeout."""
    with serving(tmp_path / "log", tiny, before=PING) as server:
        port = int(server.address.rpartition(":")[2])

        def connections() -> int:
            found = server.process.net_connections("tcp")
            return sum(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in found)

        command = [sys.executable, "-c", FROZEN.format(method=STREAM_TAG), server.address, *(["busy"] * busy)]
        with psutil.Popen(command, stdout=subprocess.PIPE) as client:
            try:
                assert client.stdout.readline() == b"\n"
                assert connections() == 1
                client.send_signal(signal.SIGSTOP)
                began = time.perf_counter()
                await until(lambda: not connections())
                noticed_s = time.perf_counter() - began
            finally:
                client.kill()
        async with grpc.aio.insecure_channel(server.address) as channel:
            tag: Any = channel.unary_unary(TAG, response_deserializer=pb.TagResponse.FromString)
            assert (await tag(b"")).model_version == "en/000001"
    kind = "busy" if busy else "idle"
    figure(f"{kind}, keepalive and ping timeout {SHORT_MS} ms each: noticed after {noticed_s:.1f} s")
    assert noticed_s < 10
