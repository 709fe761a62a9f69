"""Measure the tagger on a GPU against plain torch on the same card: `make bench-gpu`.

Plain torch is `nn.LSTM` over packed sentences and `torchcrf.CRF.decode`. Every round measures each engine once on the
same batches of the example corpus. Its rate is that of one batch after another, ours with the next one started before
the answers of the last are taken; p50 is the median time of a batch by itself. The floor is what the card must take at
the rates it shows in this run: for the operations, for the bytes, and for a chain of steps that wait for one another.
"""

import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from tests.bench.reference import PlainTorch, corpus

from nermodel import DEFAULT
from nermodel.checkpoint import load
from nermodel.cuda import CudaTagger
from nermodel.network import NetworkConfig
from nermodel.tagger import Ask

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "build/bench-gpu.json"
PLAIN, OURS, SCORED, HALF = "plain torch", "float32", "float32, scores", "float16"
BATCHES = 4  # of one size
CHAIN = 200  # steps of the chain that is timed
Batch = list[list[str]]
Run = Callable[[Sequence[Batch]], object]  # tags batches one after another


class Plan(NamedTuple):
    """How much is measured."""

    sizes: Sequence[int]  # sentences a batch
    rounds: int
    round_s: float  # so long takes one engine in a round, or one pass over the batches


class Ceilings(NamedTuple):
    """What the card shows it can do."""

    operations_per_s: float  # multiplications and additions of float32, in a large matrix product
    bytes_per_s: float  # read or written, in a large copy
    step_s: float  # of a chain of smallest kernels in a graph
    round_trip_s: float  # a word to the device and back


def main() -> None:
    """Print a table and write it as JSON; with the argument `cpu`, try the benchmark itself on a little."""
    is_trial = sys.argv[1:] == ["cpu"]
    if not is_trial and not torch.cuda.is_available():
        sys.exit("bench-gpu: torch sees no CUDA device; run it where there is one, with a CUDA build of torch")
    device = torch.device("cpu" if is_trial else "cuda")
    plan = Plan((1, 8), 2, 0.02) if is_trial else Plan((1, 8, 32, 128, 256, 512, 1024, 4096), 5, 0.2)
    model = load(DEFAULT, device)
    plain, tagger, half = PlainTorch(model), CudaTagger(model), CudaTagger(model, "float16")
    engines: dict[str, tuple[Run, Run]] = {  # steadily and one by one
        PLAIN: (lambda batches: list(map(plain.tag, batches)),) * 2,
        OURS: (steadily(tagger, None), one_by_one(tagger, None)),
        SCORED: (steadily(tagger, 0), one_by_one(tagger, 0)),
        HALF: (steadily(half, None), one_by_one(half, None)),
    }
    shown = ceilings(device, 256 if is_trial else 8192)
    rng, sentences = random.Random(1), corpus()
    rows = []
    for size in track(plan.sizes, "batch sizes", console=Console(stderr=True)):
        batches = [rng.choices(sentences, k=size) for _ in range(BATCHES)]
        floor = floor_ms(model.card.network, len(model.tags), batches, shown)
        rows.append({"sentences": size, "engines": measured(engines, batches, plan), "floor_ms": floor})
    report(rows, shown, device, is_trial)


def steadily(tagger: CudaTagger, ask: Ask) -> Run:
    """Every batch is started before the answers of the one before are taken."""

    def run(batches: Sequence[Batch]) -> None:
        before = None
        for batch in batches:
            pending = tagger.submit(batch, [ask] * len(batch))
            if before is not None:
                tagger.result(before)
            before = pending
        if before is not None:
            tagger.result(before)

    return run


def one_by_one(tagger: CudaTagger, ask: Ask) -> Run:
    """Every batch is answered before the next one begins."""
    return lambda batches: [tagger.tag(batch, [ask] * len(batch)) for batch in batches]


def timed(run: Run, batches: Sequence[Batch]) -> float:
    """Seconds. The answers of every engine are on the host at the end, so there is nothing left to wait for."""
    began = time.perf_counter()
    run(batches)
    return time.perf_counter() - began


def measured(engines: dict[str, tuple[Run, Run]], batches: list[Batch], plan: Plan) -> dict[str, dict[str, float]]:
    """Tokens a second and milliseconds a batch of each engine, medians over the rounds."""
    tokens = sum(len(words) for batch in batches for words in batch)
    rates: dict[str, list[float]] = {name: [] for name in engines}
    times: dict[str, list[float]] = {name: [] for name in engines}
    repeats = {}
    for name, (steady, alone) in engines.items():
        alone(batches)  # compiles
        steady(batches)  # records
        repeats[name] = max(1, round(plan.round_s / timed(steady, batches)))
    for _ in range(plan.rounds):
        for name, (steady, alone) in engines.items():
            took = timed(steady, batches * repeats[name])
            rates[name].append(tokens * repeats[name] / took)
            times[name] += [timed(alone, [batch]) for batch in batches * min(repeats[name], 10)]
    return {
        name: {"tokens_per_s": statistics.median(rates[name]), "p50_ms": 1e3 * statistics.median(times[name])}
        for name in engines
    }


def ceilings(device: torch.device, size: int) -> Ceilings:
    """Measured on the device, matrices of `size` squared; on a CPU the chain is one of calls."""
    is_cuda = device.type == "cuda"
    wait: Callable[[], object] = torch.cuda.synchronize if is_cuda else lambda: None

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(10):
            wait()
            began = time.perf_counter()
            work()
            wait()
            times.append(time.perf_counter() - began)
        return min(times)

    one, other = torch.randn(2, size, size, device=device)
    number, word = torch.zeros(1, device=device), torch.zeros(1, pin_memory=is_cuda)

    def chain() -> None:
        for _ in range(CHAIN):
            number.add_(1.0)

    replay: Callable[[], object] = chain
    if is_cuda:
        chain()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            chain()
        replay = graph.replay
    return Ceilings(
        2 * size**3 / fastest(lambda: one @ other),
        2 * one.nbytes / fastest(lambda: other.copy_(one)),
        fastest(replay) / CHAIN,
        fastest(lambda: word.copy_(number.copy_(word, non_blocking=True), non_blocking=True)),
    )


def floor_ms(network: NetworkConfig, tags: int, batches: list[Batch], shown: Ceilings) -> dict[str, float]:
    """What the mean batch takes at least, by operations, by bytes, and by steps: two kernels a token of the longest.

    Counted is one layer, in float32: the features of a word are read once a token, the states written and read, the
    weights read once; tags, transitions and copies are small beside them.
    """
    tokens = statistics.mean(sum(map(len, batch)) for batch in batches)
    longest = statistics.mean(max(map(len, batch)) for batch in batches)
    features = network.word_dim + network.char_filters + 7
    weights = 2 * 4 * network.hidden * (features + network.hidden)
    operations = tokens * 2 * (weights + 2 * network.hidden * tags)
    size = 4 * (weights + tokens * (features + 4 * network.hidden + 2 * tags))
    return {
        "operations": 1e3 * operations / shown.operations_per_s,
        "bytes": 1e3 * size / shown.bytes_per_s,
        "steps": 1e3 * (2 * longest * shown.step_s + shown.round_trip_s),
    }


def report(rows: list[dict[str, Any]], shown: Ceilings, device: torch.device, is_trial: bool) -> None:
    """Print all and write it as JSON."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "a CPU"
    print(f"{card}, torch {torch.__version__}, Python {platform.python_version()}")
    print(
        f"the card shows {shown.operations_per_s / 1e12:.1f} TFLOP/s in float32, {shown.bytes_per_s / 1e12:.2f} TB/s, "
        f"{1e6 * shown.step_s:.1f} us a step, {1e6 * shown.round_trip_s:.0f} us a round trip"
    )
    print(f"{'':9}{'thousand tokens/s (times plain torch)':^64}{'p50, ms':^36}{'floor, ms':^27}")
    print(
        f"{'sentences':9}{PLAIN:>13}{OURS:>17}{SCORED:>17}{HALF:>17}"
        f"{PLAIN:>12}{OURS:>8}{'scores':>8}{HALF:>8}{'operations':>13}{'bytes':>7}{'steps':>7}"
    )
    for row in rows:
        found, floor = row["engines"], row["floor_ms"]
        rates = [found[name]["tokens_per_s"] for name in (PLAIN, OURS, SCORED, HALF)]
        cells = "".join(f"{rate / 1e3:10,.0f} ({rate / rates[0]:3.0f}x)" for rate in rates[1:])
        times = "".join(f"{found[name]['p50_ms']:{width}.2f}" for name, width in ((PLAIN, 12), (OURS, 8)))
        times += "".join(f"{found[name]['p50_ms']:8.2f}" for name in (SCORED, HALF))
        floors = f"{floor['operations']:13.3f}{floor['bytes']:7.3f}{floor['steps']:7.3f}"
        print(f"{row['sentences']:9}{rates[0] / 1e3:13,.1f}{cells}{times}{floors}")
    ratios = {
        f"gpu_over_torch_b{row['sentences']}": row["engines"][OURS]["tokens_per_s"]
        / row["engines"][PLAIN]["tokens_per_s"]
        for row in rows
    }
    best = max(row["engines"][name]["tokens_per_s"] for row in rows for name in (OURS, HALF))
    alone = rows[0]["engines"][OURS]["p50_ms"]
    print(f"best {best / 1e6:.2f} M tokens/s (target 5); one sentence {alone:.3f} ms (target 0.5)", end="")
    print(f"; at 256 sentences {ratios['gpu_over_torch_b256']:.0f}x (target 20)" if not is_trial else "")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    OUTPUT.parent.mkdir(exist_ok=True)
    output = OUTPUT.with_name("bench-gpu-trial.json") if is_trial else OUTPUT
    machine = {"card": card, "torch": torch.__version__, "python": platform.python_version()}
    result = {"machine": machine, "commit": commit.stdout.strip(), "ceilings": shown._asdict(), "rows": rows}
    output.write_text(
        json.dumps({**result, "ratios": ratios, "best_tokens_per_s": best, "alone_p50_ms": alone}, indent=1)
    )
    print(output)


if __name__ == "__main__":
    main()
