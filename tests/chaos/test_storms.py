"""Calls that are given up by the thousand, in every way: nothing of them may stay, and nothing be computed in vain."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.bench.reference import corpus
from tests.chaos.conftest import asked, serving, until
from tests.chaos.load import TAG, Connection, connect, head
from tests.chaos.metrics import Metrics
from tests.conftest import Figure

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]
CALLS = 5_000
ROUNDS = 3  # after one that is not measured
AT_ONCE = 50  # calls of one connection that begin together
CONNECTIONS = 8
SHORT_MS = 5
# Native, that a call may leave behind. A bare grpc.aio server (grpcio 1.85.1) whose handler only sleeps leaves 65-80 of
# a cancelled call and 55-65 of one that ends with an error.
BYTES = {"cancellation": 110, "deadline": 120, "rapid reset": 50}
PATIENCE_MS = 40  # of callers who are more than can be served
ON_THE_WAY_MS = 5  # that a call may take before the server's clock of its deadline begins

# A thread of the server that keeps a file of the bytes that glibc has given out, which Python's objects are not among.
TELL_NATIVE = """
import ctypes, os, threading, time

NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]

def tell(path):
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Info
    while True:
        info = mallinfo2()
        with open(path + ".new", "w") as file:
            file.write(f"{{time.monotonic()}} {{info.uordblks + info.hblkhd}}")
        os.rename(path + ".new", path)
        time.sleep(0.1)

threading.Thread(target=tell, args=({path!r},), daemon=True).start()
"""

# Counts the sentences that the engine gets, whose first word is when their caller's deadline passes.
COUNT_LATE = """
import os, time
from nerserver.engine import Engine

run = Engine.tag
counts = [0, 0]

async def counted(self, sentences, asks):
    now = time.monotonic_ns()
    for words in sentences:
        if words[0].isdigit():
            counts[0] += 1
            counts[1] += int(words[0]) < now
    with open({path!r} + ".new", "w") as file:
        file.write(f"{{counts[0]}} {{counts[1]}}")
    os.rename({path!r} + ".new", {path!r})
    return await run(self, sentences, asks)

Engine.tag = counted
"""


class Storm:
    """Calls that nobody waits for, over connections of their own."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self._block = head(TAG)
        self._short = head(TAG, f"{SHORT_MS}m")
        self._messages: Sequence[bytes] = [asked([words]).SerializeToString() for words in corpus()]
        self._rng = random.Random(1)
        self._connections: list[Connection] = []

    async def connect(self, address: str) -> None:
        """Open the connections."""
        self._connections = await connect(address, CONNECTIONS, lambda _, code: self.codes.update([code]))

    async def run(self, kind: str, calls: int) -> None:
        """So many calls of a kind, all of them over at the end."""
        for start in range(0, calls, AT_ONCE):
            connection = self._connections[start // AT_ONCE % CONNECTIONS]
            assert connection.lost is None, connection.lost
            for _ in range(AT_ONCE):
                message = self._rng.choice(self._messages)
                connection.call(kind, self._short if kind == "deadline" else self._block, message)
            if kind == "cancellation":
                await asyncio.sleep(self._rng.uniform(0, 0.02))
            if kind == "deadline":
                await until(lambda: not connection.calls)  # noqa: B023 of this round
            for stream in list(connection.calls):
                connection.cancel(stream)
            await asyncio.sleep(0)

    def close(self) -> None:
        """Drop the connections."""
        for connection in self._connections:
            connection.transport.abort()


@pytest.mark.parametrize("kind", ["cancellation", "deadline", "rapid reset"])
async def test_storms(tmp_path: Path, figure: Figure, kind: str) -> None:
    """Storms of cancellations, deadlines and rapid resets leave nothing behind.

    In each storm the calls of one connection begin together; the first is reset by the caller a moment later, the
    second ends by its deadline, the third is reset in the same breath.
    """
    metrics = Metrics()
    storm = Storm()
    told = tmp_path / "native"
    before = TELL_NATIVE.format(path=str(told))
    with serving(tmp_path / "log", options=metrics.options, before=before) as server:
        await storm.connect(server.address)
        native, rss = [], []
        gone_s = took_s = 0.0
        for _ in range(ROUNDS + 1):
            began = time.monotonic()
            await storm.run(kind, CALLS)
            ended = time.monotonic()
            await until(lambda: metrics.read()["nerserver_calls"] == 0)
            gone_s = max(gone_s, time.monotonic() - ended)
            took_s += ended - began
            native.append(await _native(told))
            rss.append(server.rss())
        storm.close()
        log = server.log.read_text()
    a_call = (native[-1] - native[0]) / ROUNDS / CALLS
    figure(
        f"{kind}: {ROUNDS + 1} x {CALLS} at {(ROUNDS + 1) * CALLS / took_s:.0f}/s from the test's process on the same "
        f"cores, answered {dict(storm.codes)}; live calls 0 after {gone_s:.2f} s; {a_call:.0f} native bytes a call "
        f"stay; RSS {(rss[-1] - rss[0]) / 1e6:+.1f} MB"
    )
    assert gone_s <= 1
    assert a_call <= BYTES[kind]
    assert "Traceback" not in log


async def test_expired_work(tmp_path: Path, figure: Figure) -> None:
    """Work whose deadline has passed is not computed."""
    metrics = Metrics()
    codes: Counter[str] = Counter()
    told = tmp_path / "late"
    with serving(tmp_path / "log", options=metrics.options, before=COUNT_LATE.format(path=str(told))) as server:
        connections = await connect(server.address, CONNECTIONS, lambda _, code: codes.update([code]))
        block = head(TAG, f"{PATIENCE_MS}m")
        while codes.total() < CALLS:
            for connection in connections:
                for _ in range(AT_ONCE):
                    late = time.monotonic_ns() + (PATIENCE_MS + ON_THE_WAY_MS) * 1_000_000
                    message = asked([[str(late), "was", "said", "in", "Oslo"]]).SerializeToString()
                    connection.call("", block, message)
            await until(lambda: not any(connection.calls for connection in connections))
        await until(lambda: metrics.read()["nerserver_calls"] == 0)
        computed, in_vain = map(int, told.read_text().split())
        for connection in connections:
            connection.transport.abort()
    expired = codes["4"]
    figure(
        f"{codes.total()} calls, {AT_ONCE * CONNECTIONS} at once with {PATIENCE_MS} ms each, "
        f"answered {dict(codes)}; {computed} computed, {in_vain} of them {ON_THE_WAY_MS} ms past the deadline = "
        f"{100 * in_vain / expired:.2f} % of the {expired} that expired"
    )
    assert expired > CALLS / 4
    assert in_vain <= 0.01 * expired


async def _native(told: Path) -> int:
    """The native bytes that a server holds a second from now, when gRPC has freed what it frees."""
    later = time.monotonic() + 1
    found = [0.0, 0.0]

    def read() -> bool:
        found[:] = map(float, told.read_text().split())
        return found[0] > later

    await until(read)
    return int(found[1])
