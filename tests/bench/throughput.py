"""Measure the server over gRPC on loopback, against the same model in process: `make bench`.

Every round measures each road once, so that the machine's moods fall on all of them; medians over the rounds.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import torch

from nerclient import Client, Input
from nermodel.checkpoint import DEFAULT, load

ROOT = Path(__file__).parents[2]
ROUNDS = 5
REPEATS = 2  # of the corpus in one round
ALONE = 200  # unary calls in one round


def corpus() -> tuple[list[str], list[list[str]]]:
    """The sentences of examples/corpus as typed and as tokens."""
    texts, sentences = [], []
    for part in ("train", "dev", "test"):
        for block in (ROOT / "examples/corpus" / f"{part}.conll").read_text(encoding="utf-8").strip().split("\n\n"):
            lines = block.split("\n")
            texts.append(lines[1].removeprefix("# text = "))
            sentences.append([line.split("\t")[0] for line in lines[2:]])
    return texts, sentences


def start(*options: str) -> tuple[subprocess.Popen[str], str]:
    """A server on a free port, and its address."""
    command = [str(Path(sys.executable).with_name("nerserver")), "--address", "127.0.0.1:0", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().split()[-1]


async def stream(client: Client, inputs: Sequence[Input]) -> None:
    """Tag the inputs over one stream."""
    count = 0
    async for result in client.stream(inputs):
        assert result.error is None
        count += 1
    assert count == len(inputs)


async def measure() -> None:
    """Print a table of rates and one of times."""
    texts, sentences = (REPEATS * part for part in corpus())
    tokens = sum(map(len, sentences))
    model = load(DEFAULT, torch.device("cpu"))
    ordered = sorted(sentences, key=len)
    servers = [start(), start("--max-batch-sentences", "1")]
    try:
        async with Client(servers[0][1]) as client, Client(servers[1][1]) as unbatched:

            async def in_process() -> None:
                for at in range(0, len(ordered), 128):
                    model.tag(ordered[at : at + 128])

            roads: dict[str, Callable[[], Awaitable[None]]] = {
                "in process, 128 by length": in_process,
                "one stream, tokens": lambda: stream(client, sentences),
                "one stream, text": lambda: stream(client, texts),
                "one stream, tokens, batch of 1": lambda: stream(unbatched, sentences),
            }
            rates: dict[str, list[float]] = {name: [] for name in roads}
            alone: list[list[float]] = []
            for round_ in range(ROUNDS + 1):  # the first is a warm-up
                for name, road in roads.items():
                    began = time.perf_counter()
                    await road()
                    if round_:
                        rates[name].append(len(sentences) / (time.perf_counter() - began))
                times = []
                for text in texts[:ALONE]:
                    began = time.perf_counter()
                    await client.tag(text)
                    times.append(1000 * (time.perf_counter() - began))
                if round_:
                    alone.append(sorted(times))
    finally:
        for server, _ in servers:
            server.terminate()
            server.wait()
    base = statistics.median(rates["in process, 128 by length"])
    print(f"{torch.get_num_threads()} threads, {len(sentences)} sentences of {tokens / len(sentences):.1f} tokens")
    print(f"{'':32}{'sentences/s':>12}{'tokens/s':>10}{'ratio':>7}")
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"{name:32}{rate:12,.0f}{rate * tokens / len(sentences):10,.0f}{rate / base:7.2f}")
    p50 = statistics.median(times[len(times) // 2] for times in alone)
    p99 = statistics.median(times[len(times) * 99 // 100] for times in alone)
    print(f"one text a call, one caller: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    asyncio.run(measure())
