"""Unary calls by the thousand, from a process of its own.

A gRPC client in Python costs more than the server it would overload on the same cores, so these are bare HTTP/2 frames:
a call costs the caller a tenth of what it costs the server.
"""

import asyncio
import json
import pickle
import random
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path

import hpack

ROOT = Path(__file__).parents[2]
TAG = "/ner.v1.Tagger/Tag"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8
MOST = 2**31 - 1
TICK_S = 0.001
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Plan:
    """A load: so many callers who wait for each answer, or arrivals at a rate that wait for nobody."""

    address: str
    seconds: float
    deadline_s: float
    callers: int = 0
    rate: float = 0.0  # calls/s
    connections: int = 32


@dataclass
class Outcome:
    """What the calls came to that were due after the first second.

    `codes` counts them by gRPC's code, or as "expired": not answered by the deadline and given up, or answered later.
    """

    codes: Counter[str] = field(default_factory=Counter)
    times_ms: list[float] = field(default_factory=list)  # of those answered OK, from when they were due
    seconds: float = 0.0
    late_ms: float = 0.0  # how late the load itself was at most in 99 of 100 ticks
    load_cpu: float = 0.0  # cores that the load took

    @property
    def goodput(self) -> float:
        """Calls/s answered OK within their deadlines."""
        return self.codes["0"] / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """The time that this share of the answered did not exceed."""
        return self.times_ms[len(self.times_ms) * percent // 100] if self.times_ms else 0.0


def run(plan: Plan, messages: Sequence[bytes]) -> Outcome:
    """Call Tag with these messages over and over, in a process of its own."""
    command = [sys.executable, "-m", "tests.chaos.load", json.dumps(asdict(plan))]
    done = subprocess.run(command, cwd=ROOT, input=pickle.dumps(messages), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    return Outcome(**{**found, "codes": Counter(found["codes"])})


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">IBBI", len(payload), kind, flags, stream)[1:] + payload


def head(path: str, timeout: str = "") -> bytes:
    """The header block of a gRPC request, which holds nothing that depends on what was sent before."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *([("grpc-timeout", timeout)] if timeout else []),
    ]
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*each) for each in fields], huffman=False)


class Connection(asyncio.Protocol):
    """One connection of calls; `ended` is told of each call's key and gRPC code."""

    def __init__(self, ended: Callable[[object, str], None]) -> None:
        self.calls: dict[int, object] = {}  # in flight: their keys, by stream
        self.lost: Exception | None = None
        self._ended = ended
        self._waiting: deque[tuple[object, bytes, bytes]] = deque()
        self._next = 1
        self._room = 65535  # bytes that the server takes
        self._max_calls = 100
        self._received = b""
        self._codes: dict[bytes, str] = {}  # by header block

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # No header table, no push, no limit to what the server may send.
        ours = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, MOST)
        transport.write(PREFACE + frame(SETTINGS, 0, 0, ours) + frame(WINDOW, 0, 0, struct.pack(">I", MOST - 65535)))

    def call(self, key: object, block: bytes, message: bytes) -> None:
        """Call with a header block and a message as soon as the server takes it."""
        self._waiting.append((key, block, message))
        self._send()

    def cancel(self, stream: int) -> None:
        """Give a call up."""
        if self.calls.pop(stream, None) is not None:
            self.transport.write(frame(RESET, 0, stream, struct.pack(">I", CANCEL)))
            self._send()

    def _send(self) -> None:
        parts: list[bytes] = []
        while self._waiting and len(self.calls) < self._max_calls and len(self._waiting[0][2]) + 5 <= self._room:
            key, block, message = self._waiting.popleft()
            data = struct.pack(">BI", 0, len(message)) + message
            self._room -= len(data)
            self.calls[self._next] = key
            parts += frame(HEADERS, END_HEADERS, self._next, block), frame(DATA, END_STREAM, self._next, data)
            self._next += 2
        if parts:
            self.transport.write(b"".join(parts))

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        at = 0
        taken = 0
        while len(data) - at >= 9:
            size = int.from_bytes(data[at : at + 3])
            if len(data) - at - 9 < size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9])
            payload = data[at + 9 : at + 9 + size]
            at += 9 + size
            if kind == DATA:
                taken += size
            elif kind == HEADERS and flags & END_STREAM:
                self._end(stream, self._code(payload))
            else:
                self._control(kind, flags, stream, payload)
        self._received = data[at:]
        if taken:
            self.transport.write(frame(WINDOW, 0, 0, struct.pack(">I", taken)))
        self._send()

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 3:
                    self._max_calls = value
            self.transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.transport.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW and not stream:
            self._room += int.from_bytes(payload)
        elif kind == RESET:
            self._end(stream, f"reset {int.from_bytes(payload)}")
        elif kind == GOAWAY:
            self.lost = ConnectionError(repr(payload[4:]))

    def _code(self, block: bytes) -> str:
        if block not in self._codes:
            fields = dict(hpack.Decoder().decode(block, raw=True))
            self._codes[block] = fields.get(b"grpc-status", b"none").decode()
        return self._codes[block]

    def _end(self, stream: int, code: str) -> None:
        if (key := self.calls.pop(stream, None)) is not None:
            self._ended(key, code)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = self.lost or error or ConnectionResetError("the server closed the connection")
        for stream in list(self.calls):
            self._end(stream, "lost")


async def connect(address: str, count: int, ended: Callable[[object, str], None]) -> list[Connection]:
    """So many connections."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: Connection(ended), host, int(port)))[1] for _ in range(count)]


async def _load(plan: Plan, messages: Iterator[bytes]) -> Outcome:
    outcome = Outcome()
    block = head(TAG, f"{round(1000 * plan.deadline_s)}m")
    began = time.perf_counter()

    def ended(due: object, code: str) -> None:
        assert isinstance(due, float)
        took = time.perf_counter() - due
        if due - began >= WARM_UP_S:
            outcome.codes["expired" if took > plan.deadline_s else code] += 1
            if code == "0" and took <= plan.deadline_s:
                outcome.times_ms.append(1000 * took)
        if plan.callers:
            freed.append(due)

    freed: list[float] = []
    connections = await connect(plan.address, plan.connections, ended)
    began = time.perf_counter()
    cpu = time.process_time()
    end = began + WARM_UP_S + plan.seconds
    turn = 0
    late: list[float] = []
    arrivals = _arrivals(plan.rate, began) if plan.rate else iter([began] * plan.callers)
    due = next(arrivals, end)
    while (now := time.perf_counter()) < end:
        late.append(max(0.0, now - due))
        while due <= now:
            connections[turn % len(connections)].call(due, block, next(messages))
            turn += 1
            due = next(arrivals, end)
        for _ in freed:
            connections[turn % len(connections)].call(now, block, next(messages))
            turn += 1
        freed.clear()
        for connection in connections:
            for stream, key in list(connection.calls.items()):  # oldest first
                assert isinstance(key, float)
                if now - key <= plan.deadline_s:
                    break
                connection.cancel(stream)
                ended(key, "cancelled")
        await asyncio.sleep(0 if freed else TICK_S)
    outcome.seconds = plan.seconds
    outcome.load_cpu = (time.process_time() - cpu) / (time.perf_counter() - began)
    outcome.late_ms = 1000 * sorted(late)[len(late) * 99 // 100]
    outcome.times_ms.sort()
    for connection in connections:
        connection.calls.clear()  # what is in flight still counts for nothing
        connection.transport.abort()
    return outcome


def _arrivals(rate: float, began: float) -> Iterator[float]:
    rng = random.Random(1)
    due = began
    while True:
        due += rng.expovariate(rate)
        yield due


def main(arguments: Sequence[str]) -> None:
    """Run one plan and print its outcome."""
    messages = pickle.load(sys.stdin.buffer)
    print(json.dumps(vars(asyncio.run(_load(Plan(**json.loads(arguments[0])), cycle(messages))))))


if __name__ == "__main__":
    main(sys.argv[1:])
