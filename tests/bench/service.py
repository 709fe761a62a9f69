"""Measure the engine and the service on this machine: `make bench`. It takes a minute or so.

The engine is measured in this process (see tests/bench/engine.py), then `nerserver` with its default settings in a
process of its own, over the loopback, with this process as its only client. Every round measures each road once, and
the engine in process beside them, so that the machine's moods fall on all; figures are medians over the rounds, ratios
those of the rounds' ratios. Open load is single sentences at random moments on eight streams.
"""

import argparse
import asyncio
import gc
import json
import os
import selectors
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import grpc.aio
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tests.bench import engine, roads, sentence, sheets
from tests.bench.callers import Calls, Streamed
from tests.bench.load import Load, Sentence, closed, poisson, requests
from tests.bench.peers import about
from tests.bench.processes import BUILD, Server, cpu_s, echoing, memory_mb, serving
from tests.bench.reference import corpus

from nerclient import Client
from nermodel import DEFAULT
from nermodel.checkpoint import load
from nermodel.tagger import Tagger
from nerserver.engine import tagger_for

CALLERS = 32
STREAMS = 8
IN_FLIGHT = 512  # sentences unanswered on all streams together; the server reads ahead twice as many on each
SHARES = (10, 25, 50, 75, 90)  # percent of what eight streams carry, one sentence a message
ENGINE_SIZES = (32, 128)  # sentences of a batch in process; the better one counts
Road: TypeAlias = Callable[[], Awaitable[Load]]


class Measured(NamedTuple):
    """All that was found of the service."""

    loads: dict[str, list[Load]]  # by road, one a round
    open_loads: dict[int, list[Load]]  # by percent of what eight streams carried in the same round, one a round
    engine_rates: dict[int, list[float]]  # tokens a second in process by size of batch, one a round
    parts_us: dict[str, float]  # see tests.bench.sentence


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
        stream, streams = roads.Streams(channel, 1), roads.Streams(channel, STREAMS)
        echo_stream, echo_streams = roads.Streams(echo_channel, 1), roads.Streams(echo_channel, STREAMS)
        measures: dict[str, Road] = {
            sheets.ALONE_CALL: lambda: closed(roads.calls(channel), ones, 1, seconds),
            sheets.ALONE: lambda: closed(alone.call, ones, 1, seconds),
            sheets.CALLS: lambda: closed(roads.calls(channel), ones, CALLERS, seconds),
            sheets.ONE_BY_1: lambda: closed(stream.call, ones, IN_FLIGHT, seconds),
            sheets.ONE_BY_32: lambda: closed(stream.call, many, IN_FLIGHT // 32, seconds),
            sheets.EIGHT_BY_1: lambda: closed(streams.call, ones, IN_FLIGHT, seconds),
            sheets.EIGHT_BY_32: lambda: closed(streams.call, many, IN_FLIGHT // 32, seconds),
            f"{sheets.ALONE_CALL}, nerclient": lambda: closed(Calls(client).call, ones, 1, seconds),
            f"{sheets.ALONE}, nerclient": lambda: closed(client_stream.call, ones, 1, seconds),
            f"{sheets.CALLS}, nerclient": lambda: closed(Calls(client).call, ones, CALLERS, seconds),
            "one stream, nerclient": lambda: roads.client_streamed(client, ones, 1, seconds),
            "eight streams, nerclient": lambda: roads.client_streamed(client, ones, STREAMS, seconds),
            sheets.ECHO: lambda: closed(echo.echo, ones, 1, seconds),
            "one stream, 1 a message, echo": lambda: closed(echo_stream.echo, ones, IN_FLIGHT, seconds),
            "eight streams, 1 a message, echo": lambda: closed(echo_streams.echo, ones, IN_FLIGHT, seconds),
        }
        for road in measures.values():  # warms up
            await road()
        alone.timings.clear()
        gc.collect()
        gc.freeze()  # else looking through all of torch stops this client for a tenth of a second now and then
        loads: dict[str, list[Load]] = {name: [] for name in measures}
        found = Measured(loads, {share: [] for share in SHARES}, {size: [] for size in batches}, {})
        for _ in range(rounds):
            for size, source in batches.items():
                found.engine_rates[size].append(engine_rate(tagger, source, seconds / 2))
            for name, road in measures.items():
                found.loads[name].append(await road())
            peak = loads[sheets.EIGHT_BY_1][-1]
            for share in SHARES:
                rate = peak.sentences / peak.took_s * share / 100
                found.open_loads[share].append(await poisson(streams.call, ones, rate, 2 * seconds))
            advance()
        p50_us = {name: 1000 * sheets.percentile_ms(found.loads[name], 50) for name in (sheets.ECHO, sheets.ALONE)}
        parts = sentence.parts_us(
            tagger, list(islice(ones, 500)), alone.timings, p50_us[sheets.ECHO], p50_us[sheets.ALONE]
        )
        for each in (alone, echo, client_stream, stream, streams, echo_stream, echo_streams):
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
    began, used = time.perf_counter(), cpu_s()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Drawn after each round only: a bar that draws itself stops this process, the client, ten times a second.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("engine in process", total=2 * rounds)
        bar.refresh()

        def advance(stage: str) -> None:
            bar.update(task, description=stage, advance=1, refresh=True)

        model = load(DEFAULT, torch.device("cpu"))
        ways = engine.ways(model)
        engines = engine.measure(ways, rounds, lambda: advance("engine in process"))
        bar.update(task, description="service", refresh=True)
        # Timers of select are precise to microseconds, those of epoll to milliseconds.
        loop = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector()))
        with loop, serving() as server, echoing() as echo_port:
            tagger = tagger_for(model, server.threads)
            assert tagger.name == server.engine, "the server tags by another engine than this process would"
            engine_rate(tagger, requests(corpus(), 32), 1)  # fills its table
            found = loop.run(measure(server, echo_port, tagger, rounds, seconds, lambda: advance("service")))
            peak_mb = memory_mb(server.process, "VmHWM")
    machine_s, own_s = (now - then for now, then in zip(cpu_s(), used, strict=True))
    others = 100 * max(machine_s - own_s, 0) / (time.perf_counter() - began) / (os.cpu_count() or 1)
    facts = {"start_s": server.start_s, "rest_mb": server.rest_mb, "peak_mb": peak_mb, "threads": server.threads}
    facts["others_percent"] = others
    ratios = engine.ratios(engines, ways.served) | sheets.ratios(found.loads, found.open_loads, found.engine_rates)
    ratios |= {"engine_alone_p50_us": 1000 * engines[ways.served][1].percentile_ms(50), "start_s": server.start_s}
    screen = Console(highlight=False)
    screen.width = max(112, screen.width)
    screen.print(engine.drawn(engines))
    for name, reason in ways.left_out.items():
        screen.print(f"left out: {name}: {reason}", soft_wrap=True, markup=False)
    screen.print(sheets.services(found.loads, found.engine_rates))
    screen.print(sheets.open_loads(found.open_loads))
    screen.print(sentence.drawn(found.parts_us))
    screen.print(sheets.facts(facts))
    screen.print(sheets.verdicts(ratios))
    (BUILD / "bench.png").write_bytes(sheets.picture(found.open_loads, found.loads))
    report: Mapping[str, Any] = {
        "machine": {**about(), "memory_gb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30},
        "versions": {name: version(name) for name in ("torch", "grpcio", "protobuf", "nerstream")},
        "settings": {"rounds": rounds, "seconds": seconds, "in_flight": IN_FLIGHT, "server": "defaults"},
        "ratios": ratios,
        "engine": {name: {n: each.told() for n, each in sizes.items()} for name, sizes in engines.items()},
        "left_out": ways.left_out,
        "served": ways.served,
        "service": {name: [sheets.told(each) for each in loads] for name, loads in found.loads.items()},
        "engine_rates": found.engine_rates,
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
    parser.add_argument("--seconds", type=float, default=0.3, help="of each road in a round")
    options = parser.parse_args()
    run(options.rounds, options.seconds)


if __name__ == "__main__":
    main()
