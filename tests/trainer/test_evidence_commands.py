"""`nertrainer evaluate` and `nertrainer compare` on a small corpus."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import MakeModel, publish
from tests.trainer.conftest import Command

Run = Callable[..., tuple[str, str]]
TEXT = """Mary B-PER\nOkafor I-PER\nleft O\nOslo B-LOC\n
Siemens B-ORG\nInc. I-ORG\nsaid O\n
in O\nOslo B-LOC\n
the O\nOkafor B-PER\nwas O\nnot O\nin O\nUnseen B-LOC\n"""


@pytest.fixture
def run(command: Command) -> Run:
    """Run the command in this process; its stdout and stderr."""

    def run(*arguments: object, code: int = 0) -> tuple[str, str]:
        ended = command(*arguments)
        assert ended.code == code
        return ended.out, ended.err

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An annotated file."""
    path = tmp_path / "data.conll"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def checkpoint(make_model: MakeModel, tmp_path: Path) -> Path:
    """A published model."""
    return publish(tmp_path / "demo", make_model(), [])


def test_json_holds_everything(run: Run, checkpoint: Path, data: Path) -> None:
    """One object a file, with the headline at the top and every table; seen entities only with the training text."""
    out, _ = run("evaluate", checkpoint, data, data, "--json")
    first, second = map(json.loads, out.splitlines())
    assert {**first, "speed": None} == {**second, "speed": None}
    assert (first["model"], first["support"], first["sentences"], first["by_surface"]) == ("demo/000001", 6, 4, None)
    assert first["confusion"]["same_boundaries"].keys() == {"LOC", "ORG", "PER"}
    assert first["measures"]["strict"]["overall"]["f1"] == pytest.approx(first["f1"])
    assert first["speed"]["tokens_per_s"] > 0
    assert any(entity["score"] for each in first["worst"] for entity in each["predicted"])
    out, _ = run("evaluate", checkpoint, data, "--json", "--train", data)
    assert json.loads(out)["by_surface"]["seen entity"]["support"] == 6


def test_the_summary_says_where_the_rest_is(run: Run, checkpoint: Path, data: Path) -> None:
    """Without options: the table by type and a few lines, and on stderr how to see more."""
    out, err = run("evaluate", checkpoint, data)
    assert all(word in out for word in ("LOC", "calibration error", "tokens a second", "boundaries"))
    assert "what is taken for what" not in out
    assert all(option in err for option in ("--full", "--html", "--train"))


def test_full_prints_every_table(run: Run, checkpoint: Path, data: Path) -> None:
    """With --full and the training text no table is left out, and the worst sentences are named by their line."""
    out, err = run("evaluate", checkpoint, data, "--full", "--train", data)
    for title in (
        "by what counts as found",
        "by length of the entity",
        "by length of the sentence",
        "seen and unseen entities",
        "what is taken for what",
        "calibration of scores",
        "sentences with most errors",
        "data.conll:",
    ):
        assert title in out
    assert "--train" not in err


def test_html_is_written(run: Run, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """--html writes the page beside the usual output, with the model's name and version."""
    out, err = run("evaluate", checkpoint, data, "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert all(part in text for part in ("demo/000001", "data.conll", "<svg"))
    assert "LOC" in out
    assert "page.html" in err


@pytest.mark.parametrize("where", ["none/page.html", "."])
def test_html_that_cannot_be_written_is_said_before_the_work(
    run: Run, checkpoint: Path, data: Path, tmp_path: Path, where: str
) -> None:
    """A folder that is not there, or a folder itself, is one line and no figures."""
    out, err = run("evaluate", checkpoint, data, "--html", tmp_path / where, code=1)
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "--html" in err


def test_models_are_compared(run: Run, make_model: MakeModel, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Figures of both with a table for people, and one object a file for programs."""
    other = publish(tmp_path / "other", make_model(seed=2), [])
    out, _ = run("compare", checkpoint, other, data)
    assert all(part in out for part in ("B - A", "95 % interval", "only A finds", "only B finds"))
    out, _ = run("compare", checkpoint, other, data, "--json", "--resamples", 50)
    found = json.loads(out)
    scored = [json.loads(run("evaluate", path, data, "--json")[0]) for path in (checkpoint, other)]
    assert [found["f1_a"], found["f1_b"]] == pytest.approx([each["f1"] for each in scored])
    assert (found["version_a"], found["version_b"], found["resamples"]) == ("demo/000001", "other/000001", 50)
    assert set(found["per_type"]) == {"LOC", "ORG", "PER"}


def test_a_model_is_compared_with_itself(run: Run, checkpoint: Path, data: Path) -> None:
    """No difference, and p = 1."""
    found = json.loads(run("compare", checkpoint, checkpoint, data, "--json")[0])
    assert (found["difference"], found["p_value"], found["only_a"]["count"]) == (0, 1, 0)


def test_labels_that_a_model_lacks_are_warned_of(run: Run, checkpoint: Path, data: Path) -> None:
    """They are named with those it has; a label map that mends it silences the warning."""
    data.write_text(TEXT.replace("-LOC", "-place").replace("-ORG", "-firm"))
    for command in (["evaluate", checkpoint], ["compare", checkpoint, checkpoint]):
        _, err = run(*command, data, "--json")
        said = f"warning: {checkpoint} has none of firm, place; it has LOC, MISC, ORG, PER; rename those"
        assert err.count(said) == 1
        assert "has none of" not in run(*command, data, "--json", "--labels", "place=LOC, firm=ORG")[1]


def test_files_without_entities_are_not_scored(run: Run, checkpoint: Path, data: Path) -> None:
    """Nothing could be right or wrong there, so it is one line; also where a label map dropped them all."""
    (data.parent / "plain.txt").write_text("word O\n")
    for command in (["evaluate", checkpoint], ["compare", checkpoint, checkpoint]):
        out, err = run(*command, data.parent / "plain.txt", code=1)
        assert out == ""
        assert "plain.txt: holds no entity; give annotated text" in err
        assert "--labels drops every label" in run(*command, data, "--labels", "PER=,LOC=,ORG=", code=1)[1]


def test_a_folder_is_no_checkpoint(run: Run, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Of a run's folder or a model's the file that was meant is named."""
    best = tmp_path / "run" / "best.safetensors"
    best.parent.mkdir()
    best.write_bytes(b"")
    for folder, meant in ((best.parent, best), (checkpoint.parent, checkpoint), (tmp_path, "a .safetensors file")):
        said = f"nertrainer: {folder}: a folder, not a checkpoint; give {meant}\n"
        assert run("evaluate", folder, data, code=1) == ("", said)
        assert run("compare", checkpoint, folder, data, code=1) == ("", said)


def test_long_words_are_cut_for_people(run: Run, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """A word without end does not flood the terminal or the page; JSON holds it whole."""
    data.write_text(TEXT.replace("Unseen", "x" * 5000).replace("said", "y" * 5000))
    out, _ = run("evaluate", checkpoint, data, "--full", "--html", tmp_path / "page.html")
    for text in (out, (tmp_path / "page.html").read_text(encoding="utf-8")):
        assert "x" * 59 + "…" in text.replace("\n", "")
        assert "y" * 59 + "…" in text.replace("\n", "")
        assert "x" * 60 not in text.replace("\n", "")
    assert "x" * 5000 in run("evaluate", checkpoint, data, "--json")[0]
