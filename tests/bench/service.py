"""Measure the engine and the service on this machine: `make bench`. About a minute.

The engine is measured in this process (see tests/bench/engine.py), then `nerserver` with its default settings in a
process of its own, over the loopback, with this process as its only client. Every round measures each road once, and
the engine in process beside them, so that the machine's moods fall on all; figures are medians over the rounds, ratios
those of the rounds' ratios. Open load is single sentences at random moments on eight streams.
"""

import argparse
import asyncio
import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import grpc.aio
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tests.bench import engine, roads, sentence, sheets
from tests.bench.callers import Calls, Streamed
from tests.bench.load import Load, Sentence, closed, poisson, requests
from tests.bench.peers import about
from tests.bench.reference import corpus
from tests.bench.servers import free_port, running

from nerclient import Client
from nermodel.checkpoint import DEFAULT, load
from nermodel.tagger import Tagger
from nerserver.engine import tagger_for

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
CALLERS = 32
STREAMS = 8
SHARES = (10, 25, 50, 75, 90)  # percent of the peak
START_S = 60
ENGINE_SIZES = (32, 128)  # sentences of a batch in process; the better one counts
Road: TypeAlias = Callable[[], Awaitable[Load]]


class Server(NamedTuple):
    """A server that has greeted."""

    process: int
    port: int
    start_s: float  # from the start of the process until it listened
    rest_mb: float | None
    threads: int  # of its model
    engine: str


class Measured(NamedTuple):
    """All that was found of the service."""

    loads: dict[str, list[Load]]  # by road, one a round
    open_loads: dict[int, list[Load]]  # by percent of the peak, one a round
    peak_per_s: float  # sentences of one each on eight streams
    engine_rates: dict[int, list[float]]  # tokens a second in process by size of batch, one a round
    parts_us: dict[str, float]  # see tests.bench.sentence


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


async def measure(
    server: Server, echo_port: int, tagger: Tagger, rounds: int, seconds: float, advance: Callable[[], object]
) -> Measured:
    """The service, each road for so many seconds in every round."""
    sentences = corpus()
    ones, many = roads.prepared(sentences, 1), roads.prepared(sentences, 32)
    batches = {size: requests(sentences, size) for size in ENGINE_SIZES}
    async with (
        _channel(server.port) as channel,
        _channel(echo_port) as echo_channel,
        Client(f"127.0.0.1:{server.port}") as client,
    ):
        alone, echo, client_stream = roads.Alone(channel), roads.Alone(echo_channel), Streamed(client)
        streams = roads.Streams(channel, STREAMS)

        def bare(source: Iterator[roads.Prepared], size: int, count: int) -> Road:
            return lambda: roads.streamed(channel, source, size, count, seconds)

        measures: dict[str, Road] = {
            sheets.ALONE_CALL: lambda: closed(roads.calls(channel), ones, 1, seconds),
            sheets.ALONE: lambda: closed(alone.call, ones, 1, seconds),
            sheets.ECHO: lambda: closed(echo.echo, ones, 1, seconds),
            sheets.CALLS: lambda: closed(roads.calls(channel), ones, CALLERS, seconds),
            sheets.ONE_BY_1: bare(ones, 1, 1),
            sheets.ONE_BY_32: bare(many, 32, 1),
            sheets.EIGHT_BY_1: bare(ones, 1, STREAMS),
            sheets.EIGHT_BY_32: bare(many, 32, STREAMS),
            f"{sheets.ALONE_CALL}, nerclient": lambda: closed(Calls(client).call, ones, 1, seconds),
            f"{sheets.ALONE}, nerclient": lambda: closed(client_stream.call, ones, 1, seconds),
            f"{sheets.CALLS}, nerclient": lambda: closed(Calls(client).call, ones, CALLERS, seconds),
            "one stream, nerclient": lambda: roads.client_streamed(client, ones, 1, seconds),
            "eight streams, nerclient": lambda: roads.client_streamed(client, ones, STREAMS, seconds),
        }
        for road in measures.values():  # warms up
            await road()
        alone.timings.clear()
        peak = await measures[sheets.EIGHT_BY_1]()
        peak_per_s = peak.sentences / peak.took_s
        loads: dict[str, list[Load]] = {name: [] for name in measures}
        found = Measured(loads, {share: [] for share in SHARES}, peak_per_s, {size: [] for size in batches}, {})
        for _ in range(rounds):
            for size, source in batches.items():
                found.engine_rates[size].append(engine_rate(tagger, source, seconds / 2))
            for name, road in measures.items():
                found.loads[name].append(await road())
            for share in SHARES:
                rate = peak_per_s * share / 100
                found.open_loads[share].append(await poisson(streams.call, ones, rate, 2 * seconds))
            advance()
        p50_us = {name: 1000 * sheets.percentile_ms(found.loads[name], 50) for name in (sheets.ECHO, sheets.ALONE)}
        parts = sentence.parts_us(
            tagger, list(islice(ones, 500)), alone.timings, p50_us[sheets.ECHO], p50_us[sheets.ALONE]
        )
        for each in (alone, echo, client_stream, streams):
            await each.close()
    return found._replace(parts_us=parts)


def _channel(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.http2.bdp_probe", 0)])


def engine_rate(tagger: Tagger, batches: Iterator[Sequence[Sentence]], seconds: float) -> float:
    """Tokens a second in process."""
    tokens = 0
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        batch = next(batches)
        tagger.tag(batch, [None] * len(batch))
        tokens += sum(map(len, batch))
    return tokens / took


def run(rounds: int, seconds: float) -> None:
    """Measure, print, and write build/bench.json and build/bench.png."""
    BUILD.mkdir(exist_ok=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("engine: warming up", total=2 * rounds)

        def advance(stage: str) -> None:
            bar.update(task, description=stage, advance=1)

        model = load(DEFAULT, torch.device("cpu"))
        ways = engine.ways(model)
        engines = engine.measure(ways, rounds, lambda: advance("engine in process"))
        bar.update(task, description="service")
        # Timers of select are precise to microseconds, those of epoll to milliseconds.
        loop = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector()))
        with loop, serving() as server, echoing() as echo_port:
            tagger = tagger_for(model, server.threads)
            assert tagger.name == server.engine, "the server tags by another engine than this process would"
            engine_rate(tagger, requests(corpus(), 32), 1)  # fills its table
            found = loop.run(measure(server, echo_port, tagger, rounds, seconds, lambda: advance("service")))
            peak_mb = memory_mb(server.process, "VmHWM")
    facts = {"start_s": server.start_s, "rest_mb": server.rest_mb, "peak_mb": peak_mb, "threads": server.threads}
    ratios = engine.ratios(engines, ways.served) | sheets.ratios(found.loads, found.open_loads, found.engine_rates)
    ratios |= {"engine_alone_p50_us": 1000 * engines[ways.served][1].percentile_ms(50), "start_s": server.start_s}
    screen = Console(highlight=False)
    screen.width = max(112, screen.width)
    screen.print(engine.drawn(engines))
    for name, reason in ways.left_out.items():
        screen.print(f"left out: {name}: {reason}", soft_wrap=True, markup=False)
    screen.print(sheets.services(found.loads, found.engine_rates))
    screen.print(sheets.open_loads(found.open_loads, found.peak_per_s))
    screen.print(sentence.drawn(found.parts_us))
    screen.print(sheets.facts(facts))
    screen.print(sheets.verdicts(ratios))
    (BUILD / "bench.png").write_bytes(sheets.picture(found.open_loads, found.loads[sheets.ALONE], found.peak_per_s))
    report: Mapping[str, Any] = {
        "machine": {**about(), "memory_gb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30},
        "versions": {name: version(name) for name in ("torch", "grpcio", "protobuf", "nerstream")},
        "settings": {"rounds": rounds, "seconds": seconds, "in_flight": roads.IN_FLIGHT, "server": "defaults"},
        "ratios": ratios,
        "engine": {name: {n: each.told() for n, each in sizes.items()} for name, sizes in engines.items()},
        "left_out": ways.left_out,
        "served": ways.served,
        "service": {name: [sheets.told(each) for each in loads] for name, loads in found.loads.items()},
        "engine_rates": found.engine_rates,
        "peak_per_s": found.peak_per_s,
        "open_loads": {share: [sheets.told(each) for each in loads] for share, loads in found.open_loads.items()},
        "sentence_us": found.parts_us,
        "server": facts,
    }
    (BUILD / "bench.json").write_text(json.dumps(report, indent=1))
    print(BUILD / "bench.json", BUILD / "bench.png", sep="\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each road in a round")
    options = parser.parse_args()
    run(options.rounds, options.seconds)


if __name__ == "__main__":
    main()
