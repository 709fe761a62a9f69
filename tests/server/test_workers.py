"""Several workers, with real processes and signals: the address shared, one lost, all stopped, none left behind."""

import os
import queue
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from ner.v1 import tagger_pb2 as pb
from ner.v1 import tagger_pb2_grpc
from nerserver.address import reserve
from nerserver.errors import StartError
from nerserver.server import Server
from nerserver.settings import Settings

COMMAND = [sys.executable, "-m", "nerserver", "--workers", "2", "--address", "127.0.0.1:0", "--device", "cpu"]
REQUEST = pb.TagRequest(inputs=[pb.Input(text="Ada met Acme.")])
CONNECTIONS = 16  # which the kernel spreads over the workers by hash


class Supervised:
    """A supervisor that has greeted, and its workers."""

    def __init__(self, process: "subprocess.Popen[str]", greeting: str) -> None:
        self.process = process
        self.greeting = greeting
        self.address = greeting.partition("listening on ")[2].split()[0]
        self.http_address = greeting.partition("http://")[2].partition("/")[0]

    def workers(self) -> list[psutil.Process]:
        """Those that run now."""
        return [each for each in psutil.Process(self.process.pid).children() if "spawn_main" in str(each.cmdline())]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a probe."""
        connection = HTTPConnection(self.http_address, timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        status, body = response.status, response.read().decode()
        connection.close()
        return status, body


@contextmanager
def supervised(folder: Path, *options: str) -> Iterator[Supervised]:
    """Two workers that serve; all that is left of them is killed at the end."""
    with subprocess.Popen(
        [*COMMAND, "--model", str(folder), "--http-address", "127.0.0.1:0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Supervised(process, _greeting(process))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _greeting(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("  next"):
            break
    return "".join(lines)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    while not condition():
        time.sleep(0.02)


def gone(workers: list[psutil.Process]) -> bool:
    """Whether none of these runs."""
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in workers)


class Stream:
    """A stream on a connection of its own."""

    def __init__(self, address: str, stack: ExitStack) -> None:
        channel = stack.enter_context(grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]))
        self.stub: Any = tagger_pb2_grpc.TaggerStub(channel)  # type: ignore[no-untyped-call]
        self._requests: queue.SimpleQueue[pb.TagRequest | None] = queue.SimpleQueue()
        stack.callback(self._requests.put, None)
        self._answers = self.stub.StreamTag(iter(self._requests.get, None))

    def ask(self) -> grpc.StatusCode | None:
        """Send a request and take its answer; the code where the stream has ended."""
        self._requests.put(REQUEST)
        try:
            assert len(next(self._answers).outcomes) == 1
        except grpc.RpcError as error:
            return error.code()
        return None


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_life_of_workers(folder: Path) -> None:
    """A killed worker fails its own streams as UNAVAILABLE and is replaced; SIGTERM drains all and ends with 0."""
    with supervised(folder) as running, ExitStack() as stack:
        assert "workers 2, each with a model of its own" in running.greeting
        assert running.greeting.count("listening on") == 1
        assert running.get("/readyz") == running.get("/healthz") == (200, "ok\n")
        streams = [Stream(running.address, stack) for _ in range(CONNECTIONS)]
        assert {each.ask() for each in streams} == {None}
        tagged = re.findall(r'nerserver_sentences_total\{worker="(\d)"\} (\S+)', running.get("/metrics")[1])
        assert [number for number, _ in tagged] == ["0", "1"]
        assert sum(float(count) for _, count in tagged) == CONNECTIONS
        assert all(float(count) for _, count in tagged)

        victim, other = running.workers()
        victim.kill()
        answers = [each.ask() for each in streams]
        assert set(answers) == {None, grpc.StatusCode.UNAVAILABLE}
        wait_until(lambda: "nerserver_workers_replaced_total 1.0\n" in running.get("/metrics")[1])
        wait_until(lambda: "nerserver_workers 2.0\n" in running.get("/metrics")[1])
        assert other in running.workers()
        for each in streams:
            assert len(each.stub.Tag(REQUEST, wait_for_ready=True, timeout=30).outcomes) == 1

        workers = running.workers()
        running.process.terminate()
        ended = [each.ask() for each, answer in zip(streams, answers, strict=True) if answer is None]
        assert set(ended) <= {None, grpc.StatusCode.UNAVAILABLE}
        assert running.process.wait(30) == 0
        assert gone(workers)
        assert running.process.stderr is not None
        log = running.process.stderr.read()
    assert re.search(rf"worker \d \(pid {victim.pid}\) ended \(SIGKILL\); another starts in 0.1 s", log)
    assert len(re.findall(r"INFO worker [01] \(\d+\) nerserver.life: stopped", log)) == 2
    assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_hung_worker_is_replaced(folder: Path) -> None:
    """A worker that does nothing any more is killed, and another takes its place."""
    with supervised(folder) as running:
        workers = running.workers()
        victim = workers[0]
        victim.suspend()
        wait_until(lambda: gone([victim]))
        wait_until(lambda: "nerserver_workers_replaced_total 1.0\n" in running.get("/metrics")[1])
        wait_until(lambda: "nerserver_workers 2.0\n" in running.get("/metrics")[1])
        assert workers[1] in running.workers()
        running.process.terminate()
        assert running.process.wait(30) == 0
        assert running.process.stderr is not None
        log = running.process.stderr.read()
    assert re.search(rf"worker \d \(pid {victim.pid}\) had no heartbeat for 20 s and is killed", log)


@pytest.mark.slow
def test_a_worker_that_cannot_start(tmp_path: Path) -> None:
    """What keeps workers from starting is told once, in one line."""
    ended = subprocess.run(
        [*COMMAND, "--model", str(tmp_path / "nowhere")], capture_output=True, text=True, timeout=50, check=False
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("nerserver: ")
    assert "nowhere: No such file or directory; give --model" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_second_signal(folder: Path) -> None:
    """Where a worker does not drain, a second signal kills all at once."""
    with supervised(folder, "--drain-s", "600") as running:
        workers = running.workers()
        workers[0].suspend()
        running.process.terminate()
        wait_until(lambda: running.get("/readyz") == (503, "the server is draining\n"))
        running.process.terminate()
        assert running.process.wait(30) == 128 + signal.SIGTERM
        wait_until(lambda: gone(workers))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_group(folder: Path, number: signal.Signals) -> None:
    """A signal to all processes at once, as a terminal sends it, drains each worker once and ends with 0."""
    with supervised(folder) as running:
        os.killpg(running.process.pid, number)
        assert running.process.wait(30) == 0
        assert running.process.stderr is not None
        log = running.process.stderr.read()
    assert len(re.findall("nerserver.life: stopping", log)) == 2
    assert "Traceback" not in log


@pytest.mark.slow
def test_no_orphans(folder: Path) -> None:
    """Workers whose supervisor was killed answer what they read and end."""
    with supervised(folder) as running, ExitStack() as stack:
        workers = running.workers()
        stream = Stream(running.address, stack)
        assert stream.ask() is None
        running.process.kill()
        wait_until(lambda: gone(workers))
        assert stream.ask() is grpc.StatusCode.UNAVAILABLE


async def test_not_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that would share a CUDA device are refused, whether it was asked for or found."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(StartError, match="take turns on a CUDA device; use --workers 1"):
        Server(Settings(workers=2, precision="float32"))


def test_reserved_address() -> None:
    """Port 0 becomes one port on every address of a host."""
    sockets, address = reserve("localhost:0")
    ports = {each.getsockname()[1] for each in sockets}
    for each in sockets:
        each.close()
    assert {f"localhost:{port}" for port in ports} == {address}


def test_the_supervisor_is_small() -> None:
    """The supervisor's process loads neither torch nor grpc."""
    code = "import sys, nerserver.cli; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("torch", "numpy", "grpc"):
        assert f"'{name}'" not in loaded
