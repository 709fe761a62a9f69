"""The command `nertrainer`, as a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import MakeModel, publish
from tests.trainer.conftest import Command, write_sentences

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # the model is too small for more


def nertrainer(*arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in this working directory."""
    command = [sys.executable, "-c", "from nertrainer.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, env=ENVIRONMENT, cwd=folder)


def test_evaluate_prints_a_table(make_model: MakeModel, tmp_path: Path) -> None:
    """Without --json people get a table with every type."""
    path = publish(tmp_path, make_model(), [])
    scored = nertrainer("evaluate", path, write_sentences(tmp_path / "data.conll", 20))
    assert scored.returncode == 0, scored.stderr
    assert all(name in scored.stdout for name in ("LOC", "MISC", "ORG", "PER", "all", "F1"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "none.safetensors", "{data}"], "none.safetensors: No such file or directory"),
        (["evaluate", "{data}", "{data}"], "not a whole safetensors file"),
        (["evaluate", "{model}", "none.txt"], "none.txt: No such file or directory"),
        (["evaluate", "{model}", "{folder}"], "bad.txt:1: has 1 column"),
        (["evaluate", "{model}", "{bad}"], "bad.txt:1: has 1 column"),
        (["evaluate", "{model}", "{data}", "--labels", "PER"], "expected OLD=NEW"),
        (["train", "--train", "{bad}", "--dev", "{data}", "--output", "{folder}/x"], "bad.txt:1: has 1 column"),
        (
            ["train", "--train", "{data}", "--dev", "{data}", "--output", "{data}/x"],
            "data.conll: a file, not a model's folder",
        ),
        (["train", "--train", "{data}", "--dev", "{data}", "--output", "x", "--optimizer", "adam"], "adam"),
        (["train", "--train", "{data}"], "--dev"),
        (["train", "--train", "{data}", "--dev", "{data}", "--output", "x", "--lr", "nan"], "expected finite rates"),
        (
            ["train", "--train", "{data}", "--dev", "{data}", "--save-every", "inf"],
            "--save-every inf: expected a finite",
        ),
        (
            ["train", "--train", "{data}", "--dev", "{data}", "--margin", "inf"],
            "--margin inf: expected a finite number",
        ),
        (["train", "--train", "{data}", "--dev", "{blank}", "--output", "x"], "blank.txt: holds no entity"),
        (["train", "--train", "{many}", "--dev", "{many}", "--output", "x"], "130 labels make 521 tags"),
        (
            ["train", "--train", "{data}", "--dev", "{data}", "--run", "{data}"],
            "data.conll: is not a folder; give a new",
        ),
        (["train", "--train", "{data}", "--dev", "{data}", "--run", ""], "is empty; give the name of a new folder"),
        (["train", "--train", "{data}", "--dev", "{data}", "--run", "x", "--output", "x"], "give each its own"),
        (["trian"], "trian"),
        ([], "Missing command"),
    ],
)
def test_a_mistake_gets_one_line(
    make_model: MakeModel, tmp_path: Path, command: Command, arguments: list[str], message: str
) -> None:
    """Whatever is wrong, stderr has one line that says what, no traceback, and the exit code is not zero."""
    (tmp_path / "bad.txt").write_text("word\n")
    (tmp_path / "blank.txt").write_text("word O\n")
    (tmp_path / "many.txt").write_text("".join(f"w B-L{number}\n" for number in range(130)))
    names = {
        "data": write_sentences(tmp_path / "data.conll", 5),
        "model": publish(tmp_path, make_model(), []),
        "folder": tmp_path,
        **{name: tmp_path / f"{name}.txt" for name in ("bad", "blank", "many")},
    }
    ended = command(*(argument.format(**names) for argument in arguments))
    assert ended.code != 0
    assert ended.last.startswith("nertrainer: ")
    assert message in ended.last
    assert ended.out == ""
