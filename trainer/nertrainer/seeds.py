"""The same lesson with several seeds, one run after the other, each in a folder of its own within the first's."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from nertrainer.fitting import Lesson, fit
from nertrainer.loop import Recipe
from nertrainer.run import CONFIG, Run
from nertrainer.stopping import Stop

SEEDS = "seeds.json"


@dataclass(frozen=True)
class Outcome:
    """What a seed came to: the best epoch's figures in [0, 1]."""

    seed: int
    checkpoint: Path
    epoch: int
    seconds: int
    dev_f1: float  # mean over the dev files
    dev_f1_each: Mapping[str, float]


def fit_seeds(
    run: Run, lesson: Lesson, recipe: Recipe, count: int, stop: Stop, save_every_s: float, say: Callable[[str], None]
) -> list[Outcome]:
    """Train with `count` seeds from the recipe's on, where that is not done yet; `seeds.json` in the run sums up."""
    outcomes = []
    for seed in range(recipe.seed, recipe.seed + count):
        path = run.path / f"seed-{seed}"
        if (path / CONFIG).exists():
            own = Run.open(path)
        else:
            config = {**run.config, "seed": seed, "seeds": 1}
            config.pop("output", None)
            own = Run.create(path, config, run.sha256)
        with own:
            if own.result is None:
                say(f"seed {seed}: {path}")
                fit(own, lesson, replace(recipe, seed=seed), stop, save_every_s, say)
                own.finish(plain(outcome(own, seed), path))
            outcomes.append(outcome(own, seed))
    figures = [each.dev_f1 for each in outcomes]
    summary = {
        "mean": statistics.mean(figures),
        "standard_deviation": statistics.stdev(figures),
        "best": best_of(outcomes).seed,
        "seeds": [plain(each, run.path) for each in outcomes],
    }
    run.finish(summary, SEEDS)
    return outcomes


def outcome(run: Run, seed: int) -> Outcome:
    """What a run that was trained to its end came to."""
    best = run.best()
    assert best is not None
    figures = {
        name.removeprefix("dev_f1/"): value for name, value in best.metrics.items() if name.startswith("dev_f1/")
    }
    return Outcome(
        seed, run.best_path, best.provenance["epoch"], best.provenance["seconds"], best.metrics["dev_f1"], figures
    )


def plain(found: Outcome, folder: Path) -> dict[str, Any]:
    """As JSON values, the path relative to a run's folder where it lies in it, that may be moved, else absolute."""
    path = found.checkpoint.absolute()
    within = path.is_relative_to(folder.absolute())
    return {**asdict(found), "checkpoint": str(path.relative_to(folder.absolute()) if within else path)}


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The first of those with the best dev F1."""
    return max(outcomes, key=lambda each: each.dev_f1)


def seeds_table(outcomes: Sequence[Outcome]) -> Table:
    """Dev F1 in percent of each seed and file, the best seed marked, and their mean and sample standard deviation."""
    table = Table(title=Text(f"dev F1 of {len(outcomes)} seeds"), title_justify="left")
    names = list(outcomes[0].dev_f1_each)
    for column in ("seed", *names, *(["mean"] if len(names) > 1 else []), "epoch"):
        table.add_column(Text(column), justify="right")
    rows = [[*each.dev_f1_each.values(), *([each.dev_f1] if len(names) > 1 else [])] for each in outcomes]
    for each, row in zip(outcomes, rows, strict=True):
        mark = " best" if each is best_of(outcomes) else ""
        table.add_row(f"{each.seed}{mark}", *(f"{100 * f1:.2f}" for f1 in row), str(each.epoch))
    table.add_section()
    for name, of in (("mean", statistics.mean), ("deviation", statistics.stdev)):
        table.add_row(name, *(f"{100 * of(column):.2f}" for column in zip(*rows, strict=True)), "")
    return table
