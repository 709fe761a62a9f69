"""The processes that `make bench` measures: the server, an echo, and what the system tells of them."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.servers import free_port, running

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
START_S = 60


class Server(NamedTuple):
    """A server that has greeted."""

    process: int
    port: int
    start_s: float  # from the start of the process until it listened
    rest_mb: float | None
    threads: int  # of its model
    engine: str


@contextmanager
def serving() -> Iterator[Server]:
    """`nerserver` with its default settings, on a free port of the loopback."""
    port, log = free_port(), BUILD / "bench-server.log"
    command: list[str | Path] = [
        Path(sys.executable).with_name("nerserver"),
        "--device",
        "cpu",
        "--address",
        f"127.0.0.1:{port}",
    ]
    began = time.perf_counter()
    with running(command, ROOT, {}, log) as process:
        greeting = _greeting(process, log, r"CPU threads: (\d+)\n.*engine +(.+?)(?:;|\n)")
        start_s = time.perf_counter() - began
        yield Server(process.pid, port, start_s, memory_mb(process.pid, "VmRSS"), int(greeting[1]), greeting[2])


@contextmanager
def echoing() -> Iterator[int]:
    """The port of the echo server."""
    port, log = free_port(), BUILD / "bench-echo.log"
    with running([sys.executable, "-m", "tests.bench.echo", str(port)], ROOT, {}, log) as process:
        _greeting(process, log, "ready")
        yield port


def _greeting(process: subprocess.Popen[bytes], log: Path, pattern: str) -> re.Match[str]:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(pattern, log.read_text(encoding="utf-8")):
            return found
        time.sleep(0.01)
    sys.exit(f"bench: a server did not start; see {log}")


def memory_mb(process: int, name: str) -> float | None:
    """VmRSS or VmHWM of a process, where the system tells it."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else None


def cpu_s() -> tuple[float, float]:
    """What all processes of the machine have used of its cores, and this one with the children that ended."""
    own = sum(os.times()[:4])
    try:
        user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text(encoding="utf-8").split()[1:8]
    except OSError:
        return own, own
    return sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK"), own
