"""Load on a server from one process: callers that wait for their answer, and arrivals that do not wait for anybody."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

Sentence: TypeAlias = Sequence[str]
Call: TypeAlias = Callable[[Sequence[Sentence]], Awaitable[object]]  # one request of some sentences


class Load(NamedTuple):
    """What some calls took."""

    times_ms: list[float]  # of each call, sorted
    sentences: int
    tokens: int
    took_s: float  # from the first call's start to the last one's end

    def percentile_ms(self, percent: int) -> float:
        """The time that this share of the calls did not exceed."""
        return self.times_ms[len(self.times_ms) * percent // 100]


def requests(sentences: Sequence[Sentence], size: int) -> Iterator[list[Sentence]]:
    """The sentences over and over in one fixed random order, `size` a request."""
    order = random.Random(1).sample(sentences, len(sentences))
    source = itertools.cycle(order)
    while True:
        yield list(itertools.islice(source, size))


async def closed(call: Call, source: Iterator[Sequence[Sentence]], callers: int, seconds: float) -> Load:
    """Each caller sends its next request when the last one is answered."""
    began = time.perf_counter()
    times: list[float] = []
    sent: list[Sentence] = []

    async def caller() -> None:
        while time.perf_counter() - began < seconds:
            request = next(source)
            times.append(await _timed_ms(call, request))
            sent.extend(request)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return _load(times, sent, began)


async def poisson(call: Call, source: Iterator[Sequence[Sentence]], rate_per_s: float, seconds: float) -> Load:
    """Requests at random moments, however many are unanswered; the moments are the same in every run."""
    rng = random.Random(1)
    began = due = time.perf_counter()
    calls: list[asyncio.Task[float]] = []
    sent: list[Sentence] = []
    while (due := due + rng.expovariate(rate_per_s)) < began + seconds:
        await asyncio.sleep(due - time.perf_counter())
        request = next(source)
        calls.append(asyncio.create_task(_timed_ms(call, request)))
        sent.extend(request)
    return _load(await asyncio.gather(*calls), sent, began)


async def _timed_ms(call: Call, request: Sequence[Sentence]) -> float:
    began = time.perf_counter()
    await call(request)
    return 1000 * (time.perf_counter() - began)


def _load(times_ms: Sequence[float], sent: Sequence[Sentence], began: float) -> Load:
    return Load(sorted(times_ms), len(sent), sum(map(len, sent)), time.perf_counter() - began)
