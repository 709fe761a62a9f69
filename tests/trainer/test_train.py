"""The command `nertrainer train`: its options, where they may stand, and several seeds."""

import json
import statistics
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.trainer.conftest import Command, write_sentences
from tests.trainer.signalled import STEP, Signal, nertrainer

from nermodel.checkpoint import load

SMALL: dict[str, Any] = {"hidden": 16, "batch": 8, "epochs": 1, "lr": 0.02}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a little corpus."""
    write_sentences(tmp_path / "data.conll", 40)
    return tmp_path


def flags(**options: Any) -> list[str]:
    """Options as the command line has them."""
    values = {"train": "data.conll", "dev": "data.conll", **SMALL, **options}
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def config(run: Path) -> dict[str, Any]:
    """What a run keeps of its options."""
    return tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))


def test_a_runs_figures_are_those_that_evaluate_finds(folder: Path, command: Command) -> None:
    """The published card has the F1 that its file scores, and a run without a name has that of its model."""
    ended = nertrainer(
        folder, "train", *flags(output="models/demo", epochs=6, batch=4, lr=0.05, word_lr=0.1, ema=0.5, dropout=0.02)
    )
    assert ended.code == 0, ended.err
    assert "run: runs/demo-1\n" in ended.err
    path = folder / ended.out.strip()
    figures = json.loads(command("evaluate", path, folder / "data.conll", "--json").out)
    model = load(path, torch.device("cpu"))
    assert model.card.known_answers
    assert figures["f1"] == pytest.approx(model.card.metrics["dev_f1"])
    assert figures["f1"] > 0
    assert set(figures["per_type"]) == {"LOC", "MISC", "ORG", "PER"}
    assert f"| {100 * figures['f1']:.2f} | {figures['support']} |" in path.with_suffix(".md").read_text()


def test_options_may_stand_in_a_file(folder: Path) -> None:
    """A file of options makes the run that flags make, a label map may be a table there, and flags go before it."""
    lines = ['train = ["data.conll"]', 'dev = ["data.conll"]', "hidden = 16", "batch = 8", "epochs = 7", "lr = 0.02"]
    lines += ["word_lr = 0", "[labels]", 'PER = "person"', 'MISC = ""']
    (folder / "options.toml").write_text("\n".join(lines))
    ended = nertrainer(folder, "train", "--config", "options.toml", "--epochs", "1", "--run", "file")
    assert ended.code == 0, ended.err
    ended = nertrainer(folder, "train", *flags(word_lr=0, labels="PER=person,MISC=", run="flags"))
    assert ended.code == 0, ended.err
    assert config(folder / "file") == config(folder / "flags")
    weights = [load_file(folder / name / "best.safetensors") for name in ("file", "flags")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert load(folder / "file" / "best.safetensors", torch.device("cpu")).labels == ("LOC", "ORG", "person")


def test_a_run_keeps_its_options_resolved(folder: Path) -> None:
    """Paths are absolute, `auto` is what it came to, and every file has its SHA-256; the file is itself a --config."""
    ended = nertrainer(folder, "train", *flags())
    assert ended.code == 0, ended.err
    kept = config(folder / "runs" / "data-1")
    data = str(folder / "data.conll")
    assert (kept["train"], kept["hidden"], list(kept["sha256"])) == ([data], 16, [data])
    assert (kept["device"] in ("cpu", "cuda"), kept["precision"] in ("float32", "bfloat16")) == (True, True)
    again = nertrainer(folder, "train", "--config", "runs/data-1/config.toml")
    assert again.code == 0, again.err
    assert config(folder / "runs" / "data-2") == kept


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch = 3", "options.toml: unknown key epoch; did you mean epochs?"),
        ("resume = 'x'", "options.toml: unknown key resume; did you mean"),
        ("epochs = 'many'", "options.toml: epochs: "),
        ("epochs = 1.5", "options.toml: epochs: "),
        ("epochs = 0", "options.toml: epochs: "),
        ("loss = 'crff'", "options.toml: loss: "),
        ("train = 'data.conll'", "options.toml: train: expected a list"),
        ("epochs = [1]", "options.toml: epochs: expected one value"),
        ("[labels]\n'a,b' = 'c'", "options.toml: labels: a,b: expected a label without a comma"),
        ("epochs =", "options.toml: not TOML"),
        ("epochs = true", "options.toml: epochs: expected a number or text, got true"),
        ("train = [true]", "options.toml: train: expected a number or text, got true"),
        ("run = ''", "options.toml: run: is empty"),
        ("train = ['data.conll']", "Missing option '--dev'"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, command: Command, content: str, message: str) -> None:
    """The one line names the file and the key, and for an unknown key the nearest that is known."""
    path = tmp_path / "options.toml"
    path.write_text(content)
    ended = command("train", "--config", path)
    assert ended.code != 0
    assert ended.err.startswith("nertrainer: ")
    assert ended.err.count("\n") == 1
    assert message in ended.err


@pytest.mark.parametrize("content", ["", "hidden = 16", "train = ['a']\ndev = 3\n[sha256]", "sha256 = 'x'"])
def test_a_damaged_config_of_a_run_is_named(tmp_path: Path, command: Command, content: str) -> None:
    """Whatever of it is missing or of another kind, one line names the file."""
    (tmp_path / "config.toml").write_text(content)
    err = command("train", "--resume", tmp_path).err
    assert err.startswith(f"nertrainer: {tmp_path}/config.toml: ")
    assert err.count("\n") == 1


def test_going_on_takes_no_option_that_would_change_the_run(folder: Path) -> None:
    """The line names the options that may not stand beside --resume, and the run is as it was."""
    assert nertrainer(folder, "train", *flags(run="run"), signals=[Signal(STEP, 3)]).code < 0
    ended = nertrainer(folder, "train", "--resume", "run", "--lr", "1", "--train", "data.conll")
    assert ended.code == 1
    assert "leave out --train, --lr, or start a new run" in ended.last
    assert nertrainer(folder, "train", "--resume", "run", "--save-every", "0", "--margin", "1").code == 0


def test_going_on_needs_the_files_unchanged(folder: Path) -> None:
    """A run of which a file changed, went or was added to a folder is not gone on with; the line names the file."""
    data = folder / "data"
    data.mkdir()
    (folder / "data.conll").rename(data / "a.conll")
    text = (data / "a.conll").read_text()
    assert nertrainer(folder, "train", *flags(train="data", dev="data", run="run"), signals=[Signal(STEP, 3)]).code < 0
    (data / "a.conll").write_text(text + "\nMary B-PER\n")
    assert f"{data / 'a.conll'}: changed since run began" in nertrainer(folder, "train", "--resume", "run").last
    (data / "a.conll").unlink()
    assert f"{data / 'a.conll'}: No such file" in nertrainer(folder, "train", "--resume", "run").last
    (data / "a.conll").write_text(text)
    (data / "b.conll").write_text("Mary B-PER\n")
    assert f"{data / 'b.conll'}: is new since run began" in nertrainer(folder, "train", "--resume", "run").last
    (data / "b.conll").unlink()
    assert nertrainer(folder, "train", "--resume", "run").code == 0


def test_several_seeds_are_runs_of_their_own(folder: Path) -> None:
    """Killed in the second seed and resumed, each seed is what it is alone; the best is published, all summed up."""
    killed = nertrainer(
        folder, "train", *flags(seeds=3, seed=4, output="models/en", run="run"), signals=[Signal(STEP, 7)]
    )
    assert killed.code < 0
    ended = nertrainer(folder, "train", "--resume", "run")
    assert (ended.code, ended.out) == (0, f"{folder / 'models' / 'en' / '000001.safetensors'}\n"), ended.err
    assert "epoch 1" in ended.err
    assert ended.err.count("epoch 1: loss") == 2  # the first seed was done
    assert nertrainer(folder, "train", *flags(seed=5, run="alone")).code == 0
    weights = [load_file(folder / name / "best.safetensors") for name in ("run/seed-5", "alone")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    summary = json.loads((folder / "run" / "seeds.json").read_text())
    figures = [each["dev_f1"] for each in summary["seeds"]]
    assert [each["seed"] for each in summary["seeds"]] == [4, 5, 6]
    assert (summary["mean"], summary["standard_deviation"]) == (statistics.mean(figures), statistics.stdev(figures))
    assert all(f"{100 * figure:.2f}" in ended.err for figure in [*figures, summary["mean"]])
    best = load_file(folder / "run" / f"seed-{summary['best']}" / "best.safetensors")
    published = load_file(folder / "models" / "en" / "000001.safetensors")
    assert figures[[4, 5, 6].index(summary["best"])] == max(figures)
    assert all(torch.equal(best[name], published[name]) for name in published)
