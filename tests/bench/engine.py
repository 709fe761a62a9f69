"""The engine in process: its ways to tag, and plain torch, on the same batches in the same rounds.

Batches are of random sentences of the example corpus; which ones changes from round to round. An engine repeats the
batches of a round until `SECONDS` are over. Plain torch keeps nothing from one batch to the next. The native engine
keeps encoded words in a table, which holds all of them here, as it does for most words of real text; what it does while
the table fills is the row "cold": a new tagger in every round, and each batch once.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple, get_args

import torch
from rich.table import Table
from tests.bench.load import Sentence, requests
from tests.bench.reference import PlainTorch, corpus

from nermodel.checkpoint import Model
from nermodel.native import NativeError, NativeTagger, Precision
from nermodel.tagger import Ask, Tagger, TorchTagger
from nerserver.engine import tagger_for

SECONDS = 0.06  # at least, of one engine in a round of one size
BATCHES = {1: 128, 8: 16, 32: 8, 128: 3}  # of a round, by their sentences
PLAIN, SCORES, TWO, COLD = "plain torch", "with scores", "two threads", "cold"
TARGETS = {1: 9, 8: 8, 32: 5, 128: 4}  # over plain torch
Run = Callable[[Sequence[Sentence]], object]  # tags a batch


class Way(NamedTuple):
    """A way to tag on the CPU."""

    start: Callable[[], Run]  # before every round
    sizes: Sequence[int] = tuple(BATCHES)
    once: bool = False  # each batch


class Ways(NamedTuple):
    """All of them, by name."""

    ways: dict[str, Way]
    served: str  # the one that `nerserver` takes with one thread
    left_out: dict[str, str]  # why


class Figures(NamedTuple):
    """Of one way and one size of batch."""

    rates: list[float]  # tokens a second, a round each
    times_ms: list[float]  # of each batch of every round

    def over(self, other: "Figures") -> float:
        """The median over the rounds of how many times faster this is."""
        return statistics.median(one / two for one, two in zip(self.rates, other.rates, strict=True))

    def percentile_ms(self, percent: int) -> float:
        """The time that this share of the batches did not exceed."""
        return sorted(self.times_ms)[len(self.times_ms) * percent // 100]

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tokens_per_s": statistics.median(self.rates),
            "p50_ms": self.percentile_ms(50),
            "p99_ms": self.percentile_ms(99),
            "rounds_tokens_per_s": self.rates,
        }


Found = dict[str, dict[int, Figures]]  # by way and size


def ways(model: Model) -> Ways:
    """What runs here, each on one thread unless its name says otherwise."""
    torch.set_num_threads(1)
    taggers: list[Tagger] = [TorchTagger(model)]
    left_out = {}
    for precision in get_args(Precision):
        try:
            taggers.append(NativeTagger(model, 1, precision))
        except NativeError as error:
            left_out[f"native {precision}"] = str(error)
    served = tagger_for(model, 1)
    found = {PLAIN: _warm(PlainTorch(model).tag)} | {tagger.name: _warm(_run(tagger)) for tagger in taggers}
    found[f"{served.name}, {SCORES}"] = _warm(_run(served, 0.0))
    if isinstance(served, NativeTagger):
        two = _run(tagger_for(model, 2))
        found[f"{served.name}, {TWO}"] = _warm(two)._replace(sizes=[size for size in BATCHES if size > 1])
        found[f"{served.name}, {COLD}"] = Way(lambda: _run(tagger_for(model, 1)), once=True)
    return Ways(found, served.name, left_out)


def measure(ways: Ways, rounds: int, advance: Callable[[], object]) -> Found:
    """All of them; `advance` is called after each round."""
    found: Found = {name: {size: Figures([], []) for size in way.sizes} for name, way in ways.ways.items()}
    sources = {size: requests(corpus(), size) for size in BATCHES}
    for _ in range(rounds):
        for size, batches in BATCHES.items():
            chosen = list(islice(sources[size], batches))
            for name, way in ways.ways.items():
                if size in way.sizes:
                    _measure(way, chosen, found[name][size])
        advance()
    return found


def ratios(found: Found, served: str) -> dict[str, float]:
    """How many times faster the served way is than plain torch, two threads than one, and tags than tags and scores."""
    own = found[served]
    result = {f"engine_over_torch_b{size}": own[size].over(found[PLAIN][size]) for size in BATCHES}
    two, scores = found.get(f"{served}, {TWO}"), found[f"{served}, {SCORES}"]
    if two is not None:
        result |= {f"threads2_over_1_b{size}": figures.over(own[size]) for size, figures in two.items()}
    return result | {f"scores_over_tags_b{size}": own[size].over(scores[size]) for size in (1, 32)}


def drawn(found: Found) -> Table:
    """The figures, a row each."""
    table = Table(title="The engine in process, one thread unless it says two", title_justify="left")
    for head in ("sentences", "engine", "tokens/s", "over plain torch", "p50 ms", "p99 ms"):
        table.add_column(head, justify="left" if head == "engine" else "right")
    for size in BATCHES:
        for name, sizes in found.items():
            if size in sizes:
                figures = sizes[size]
                cells = [f"{statistics.median(figures.rates):,.0f}", f"{figures.over(found[PLAIN][size]):.1f}"]
                cells += [f"{figures.percentile_ms(percent):.3f}" for percent in (50, 99)]
                table.add_row(str(size), name, *cells)
        table.add_section()
    return table


def _warm(run: Run) -> Way:
    """A way whose first and only start has tagged the whole corpus."""
    for batch in islice(requests(corpus(), 32), 40):
        run(batch)
    return Way(lambda: run)


def _run(tagger: Tagger, ask: Ask = None) -> Run:
    return lambda sentences: tagger.tag(sentences, [ask] * len(sentences))


def _measure(way: Way, batches: Sequence[Sequence[Sentence]], figures: Figures) -> None:
    run = way.start()
    tokens = sum(len(words) for batch in batches for words in batch)
    times: list[float] = []
    while not times or (not way.once and sum(times) < SECONDS):
        for batch in batches:
            began = time.perf_counter()
            run(batch)
            times.append(time.perf_counter() - began)
    figures.rates.append(tokens * (len(times) // len(batches)) / sum(times))
    figures.times_ms.extend(1000 * each for each in times)
