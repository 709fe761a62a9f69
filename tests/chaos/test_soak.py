"""A long time of everything at once, and a judge of whether memory grows, who must see a leak that was planted."""

import asyncio
import itertools
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tests.bench.reference import corpus
from tests.chaos.conftest import STREAM_TAG, TAG, Serving, asked, serving
from tests.conftest import Figure, MakeModel, publish

from ner.v1 import tagger_pb2 as pb

SAMPLE_S = 1.0
WARM_UP = 1 / 3  # of the samples
MOST_MB = 3.0  # that memory may seem to grow by chance, however short the time
MOST_MB_PER_H = 60.0  # half of which is gRPC's own, see test_storms
CALLERS = 3
PAUSE_S = 0.005
SWAP_S = 2.0
SENTENCES = corpus()
WORDS = sorted({word for words in SENTENCES for word in words})[:2000]

# A kilobyte is kept for every request.
LEAK = """
from nerserver.service import Service
tag, kept = Service.tag, []

async def leaking(self, data, context):
    kept.append(data + bytes(1000))
    return await tag(self, data, context)

Service.tag = leaking
"""


@dataclass
class Samples:
    """What a server took, again and again."""

    times: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def take(self, server: Serving) -> None:
        """Look at it now."""
        self.times.append(time.monotonic())
        self.rss.append(server.rss())
        self.descriptors.append(server.descriptors())

    def mb_per_h(self) -> float:
        """The slope of memory after the warm-up: the median of those between samples that are far apart (Theil-Sen)."""
        first = round(len(self.times) * WARM_UP)
        samples = list(zip(self.times[first:], self.rss[first:], strict=True))
        far = len(samples) // 2
        pairs = zip(samples, samples[far:], strict=False)
        return statistics.median((y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairs) * 3600 / 1e6

    def leaks(self) -> bool:
        """Whether memory grew beyond what chance explains."""
        hours = (self.times[-1] - self.times[0]) * (1 - WARM_UP) / 3600
        return self.mb_per_h() > max(MOST_MB_PER_H, MOST_MB / hours)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(180.0, marks=[pytest.mark.chaos, pytest.mark.timeout(300)]),
        pytest.param(1800.0, marks=[pytest.mark.soak, pytest.mark.timeout(2100)]),
    ],
)
async def test_soak(tmp_path: Path, figure: Figure, make_model: MakeModel, seconds: float) -> None:
    """Calls, streams, cancels, deadlines and reloads for long leave memory and descriptors as they were.

    A server with a planted leak gets the same, and the judge must say so.
    """
    folders = [tmp_path / "good", tmp_path / "leaking"]
    models = [make_model(number, words=WORDS) for number in (1, 2)]
    for folder in folders:
        publish(folder, models[0], [("Oslo", "said")])
    codes: Counter[str] = Counter()
    swaps = itertools.count()
    with (
        serving(tmp_path / "log", folders[0]) as good,
        serving(tmp_path / "leaking.log", folders[1], before=LEAK) as leaking,
    ):
        good_samples, leaking_samples = Samples(), Samples()
        work = [
            asyncio.create_task(each)
            for server in (good, leaking)
            for number in range(CALLERS)
            for each in (_call(server.address, number, codes), _stream(server.address, number, codes))
        ]
        end = time.monotonic() + seconds
        next_swap = 0.0
        while time.monotonic() < end:
            await asyncio.sleep(SAMPLE_S)
            good_samples.take(good)
            leaking_samples.take(leaking)
            for task in work:
                assert not task.done(), task.result()
            if time.monotonic() >= next_swap:
                model = models[next(swaps) % 2]
                for folder in folders:
                    newest = await asyncio.to_thread(publish, folder, model, [("Oslo", "said")])
                    for old in sorted(folder.glob("*.safetensors"))[:-3]:
                        old.unlink()
                next_swap = time.monotonic() + SWAP_S
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        log = good.log.read_text()
    opened = good_samples.descriptors[len(good_samples.descriptors) // 3 :]
    figure(
        f"{seconds:.0f} s, {codes.total()} calls {dict(codes)} and {newest.stem} versions for two servers: "
        f"{good_samples.mb_per_h():+.1f} MB/h at {good_samples.rss[-1] / 1e6:.0f} MB, descriptors {min(opened)} to "
        f"{max(opened)}; the planted leak {leaking_samples.mb_per_h():+.0f} MB/h"
    )
    assert leaking_samples.leaks()
    assert not good_samples.leaks()
    assert opened[-1] <= opened[0] + 5
    assert not set(codes) - {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert "Traceback" not in log


async def _call(address: str, number: int, codes: Counter[str]) -> None:
    """Call without end; a third of the calls are given up, a third have a deadline that is short."""
    rng = random.Random(number)
    async with grpc.aio.insecure_channel(address) as channel:
        tag: Any = channel.unary_unary(TAG)
        for words in itertools.cycle(SENTENCES):
            kind = rng.randrange(3)
            message = asked([words]).SerializeToString()
            call = tag(message, timeout=rng.uniform(0.0005, 0.01) if kind == 1 else None)
            if kind == 2:
                await asyncio.sleep(rng.uniform(0, 0.003))
                call.cancel()
            codes[(await call.code()).name] += 1
            await asyncio.sleep(PAUSE_S)


async def _stream(address: str, number: int, codes: Counter[str]) -> None:
    """Open streams without end; half of them are given up with answers under way."""
    rng = random.Random(number)
    async with grpc.aio.insecure_channel(address) as channel:
        stream: Any = channel.stream_stream(STREAM_TAG, None, pb.TagResponse.FromString)
        while True:
            call = stream()
            for _ in range(rng.randint(1, 40)):
                await call.write(asked(rng.sample(SENTENCES, 4)).SerializeToString())
                await call.read()
                await asyncio.sleep(PAUSE_S)
            if rng.random() < 0.5:
                await call.write(asked(rng.sample(SENTENCES, 4)).SerializeToString())
                call.cancel()
            else:
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
            codes[(await call.code()).name] += 1
