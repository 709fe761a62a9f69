"""A machine that has no descriptors left, no room on its disk, or a clock that jumps."""

import asyncio
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import pytest
from tests.bench.servers import free_port
from tests.chaos.callers import Callers
from tests.chaos.conftest import TAG, asked, serving, until
from tests.conftest import Figure, MakeModel, publish

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]
WORDS = ("Ada", "met", "Acme", "in", "London", ".")
DESCRIPTORS = 150
REQUESTS = 500  # while the machine is ill
FEW_DESCRIPTORS = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
"""
# Years ahead and back, at every look.
JUMPING = """
import itertools, time
time_ns, jumps = time.time_ns, itertools.cycle((10**17, -(10**17), 10**9, -(10**9)))
time.time_ns = lambda: time_ns() + next(jumps)
time.time = lambda: time.time_ns() / 1e9
"""


async def test_descriptors(tmp_path: Path, make_model: MakeModel, figure: Figure) -> None:
    """Descriptors exhausted: the server recovers and loses nothing."""
    folder = tmp_path / "en"
    publish(folder, make_model(1, words=WORDS), [WORDS])
    options = ["--reload-poll-s", "0.1", "--max-connections", "10000"]
    with serving(tmp_path / "log", folder, options, before=FEW_DESCRIPTORS) as server:
        host, _, port = server.address.rpartition(":")
        async with grpc.aio.insecure_channel(server.address) as channel:
            callers = Callers(channel, [asked([WORDS])])
            running = asyncio.create_task(callers.run())
            await until(lambda: callers.seen.answers)
            crowd = [socket.create_connection((host, int(port))) for _ in range(2 * DESCRIPTORS)]
            await until(lambda: server.descriptors() >= DESCRIPTORS - 1)
            publish(folder, make_model(2, words=WORDS), [WORDS])
            await until(lambda: "Too many open files" in server.log.read_text())
            before = len(callers.seen.answers)
            await until(lambda: len(callers.seen.answers) > before + REQUESTS)
            began = time.perf_counter()
            for each in crowd:
                each.close()
            async with grpc.aio.insecure_channel(server.address) as late:
                tag: Any = late.unary_unary(TAG)
                await tag(b"", wait_for_ready=True)
            recovered_s = time.perf_counter() - began
            await until(lambda: callers.seen.newest == "en/000002")
            callers.stop.set()
            await running
        await until(lambda: server.descriptors() < DESCRIPTORS / 2)
        log = server.log.read_text()
    lost = callers.seen.asked - len(callers.seen.answers)
    figure(
        f"{2 * DESCRIPTORS} connections at {DESCRIPTORS} descriptors: of {callers.seen.asked:,} requests lost {lost}, "
        f"errors {len(callers.seen.errors)}; a new caller answered {recovered_s:.1f} s later, and a checkpoint served"
    )
    assert (lost, callers.seen.errors) == (0, [])
    assert "Traceback" not in log


async def test_full_disk(tmp_path: Path, make_model: MakeModel, figure: Figure) -> None:
    """Disk full: a server that can write neither output nor log serves all the same."""
    folder = tmp_path / "en"
    publish(folder, make_model(1, words=WORDS), [WORDS])
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "nerserver", "--model", str(folder), "--address", address]
    with (
        open("/dev/full", "wb") as full,  # noqa: ASYNC230
        psutil.Popen([*command, "--reload-poll-s", "0.1"], stdout=full, stderr=full) as process,
    ):
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                tag: Any = channel.unary_unary(TAG)
                await tag(b"", wait_for_ready=True)
                callers = Callers(channel, [asked([WORDS])])
                running = asyncio.create_task(callers.run())
                (folder / "000002.safetensors").write_bytes(b"bad")
                publish(folder, make_model(2, words=WORDS), [WORDS])
                await until(lambda: callers.seen.newest == "en/000003")
                await until(lambda: len(callers.seen.answers) > REQUESTS)
                callers.stop.set()
                await running
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, 30)
        finally:
            if process.poll() is None:
                process.kill()
    lost = callers.seen.asked - len(callers.seen.answers)
    figure(
        f"of {callers.seen.asked:,} requests lost {lost}, errors {len(callers.seen.errors)}; "
        f"a bad checkpoint passed over and a good one served; exit {code}"
    )
    assert (lost, callers.seen.errors) == (0, [])
    assert code == 0


async def test_jumping_clock(tmp_path: Path, make_model: MakeModel, figure: Figure) -> None:
    """Clock jumped: everyone is answered, once."""
    folder = tmp_path / "en"
    publish(folder, make_model(1, words=WORDS), [WORDS])
    with serving(tmp_path / "log", folder, ["--reload-poll-s", "0.1"], before=JUMPING) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            callers = Callers(channel, [asked([WORDS])])
            running = asyncio.create_task(callers.run())
            publish(folder, make_model(2, words=WORDS), [WORDS])
            await until(lambda: callers.seen.newest == "en/000002")
            await until(lambda: len(callers.seen.answers) > REQUESTS)
            callers.stop.set()
            await running
        began = time.perf_counter()
        server.signal(signal.SIGTERM)
        code = await asyncio.to_thread(server.process.wait, 30)
        stopped_s = time.perf_counter() - began
    lost = callers.seen.asked - len(callers.seen.answers)
    longest_ms = 1000 * max(end - began for began, end in callers.seen.calls)
    figure(
        f"of {callers.seen.asked:,} requests lost {lost}, errors {len(callers.seen.errors)}, the longest "
        f"{longest_ms:.0f} ms; a checkpoint served; stopped in {stopped_s:.1f} s, exit {code}"
    )
    assert (lost, callers.seen.errors, code) == (0, [], 0)
