"""What `nertrainer train` makes of vectors, other models and corpora that annotate different labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.trainer.conftest import write_sentences
from tests.trainer.signalled import nertrainer

from nermodel.checkpoint import Model, load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a little corpus, one without MISC, and vectors."""
    write_sentences(tmp_path / "data.conll", 40)
    rng = np.random.default_rng(1)
    words = ["the", "in", "said", "oslo", "lima", "arequipa", "bergen"]
    for name, size in (("one.txt", 6), ("two.txt", 4)):
        lines = [f"{word} {' '.join(map(str, rng.normal(size=size)))}" for word in words]
        (tmp_path / name).write_text("\n".join(lines))
    return tmp_path


def trained(folder: Path, run: str, **options: Any) -> tuple[Model, str]:
    """The best checkpoint of a short run, and what the command said."""
    values = {"train": "data.conll", "dev": "data.conll", "epochs": "1", "batch": "8", "run": run, **options}
    flags = [(f"--{name.replace('_', '-')}", each) for name, value in values.items() for each in str(value).split()]
    ended = nertrainer(folder, "train", *(part for flag in flags for part in flag))
    assert ended.code == 0, ended.err
    return load(folder / run / "best.safetensors", torch.device("cpu")), ended.err


def test_vectors_are_joined_reduced_and_shared(folder: Path) -> None:
    """Two files make one table of the size asked for; words beyond the rows share those of near ones."""
    model, _ = trained(
        folder, "run", vectors="one.txt two.txt", vector_size=5, word_rows=5, word_lr=0, hidden=8, char_filters=0
    )
    assert model.card.network.word_dim == 5
    assert len(model.vocabulary.shared) == 2
    rows = model.vocabulary.word_ids(["arequipa", "bergen"]).tolist()
    assert all(row in model.vocabulary.word_ids(["the", "in", "said", "oslo", "lima"]) for row in rows)
    assert [origin["file"] for origin in model.card.provenance["vectors"]] == ["one.txt", "two.txt"]


def test_a_model_goes_on_from_another(folder: Path) -> None:
    """With --start the shape, words and weights are the checkpoint's, so that a tiny rate changes nearly nothing."""
    first, _ = trained(folder, "first", hidden=8, vectors="one.txt", char_filters=7, word_rows=5)
    assert len(first.vocabulary.shared) == 2
    (folder / "other.conll").write_text("Bergen B-LOC\nis O\nfar O\n\nZoë B-PER\nleft O\n")
    second, _ = trained(folder, "second", train="other.conll", start="first/best.safetensors", lr=1e-9, word_lr=0)
    assert second.card.network == first.card.network
    assert set(first.vocabulary.words) < set(second.vocabulary.words)
    assert "ë" in second.vocabulary.chars
    assert second.tags == ("O", *(f"{prefix}-{label}" for label in ("LOC", "PER") for prefix in "BIES"))
    old, new = first.network.state_dict(), second.network.state_dict()
    torch.testing.assert_close(new["lstm.weight_hh_l0"], old["lstm.weight_hh_l0"], atol=1e-5, rtol=1e-5)
    columns = [first.tags.index(tag) for tag in second.tags]
    torch.testing.assert_close(
        new["crf.transitions"], old["crf.transitions"][columns][:, columns], atol=1e-5, rtol=1e-5
    )
    words = ["the", "Oslo", "Bergen", "Arequipa", "unheard"]
    rows = [model.vocabulary.word_ids(words) for model in (first, second)]
    torch.testing.assert_close(new["word.weight"][rows[1]], old["word.weight"][rows[0]], atol=0.01, rtol=0.01)


def test_teachers_must_know_the_same_tags(folder: Path) -> None:
    """A teacher is heard if its tags are the student's, and refused in one line if they are not."""
    trained(folder, "teacher", hidden=8)
    student, said = trained(folder, "student", hidden=8, teacher="teacher/best.safetensors", teacher_share=0.9)
    assert "1 teachers are tagging 40 sentences" in said
    assert [origin["file"] for origin in student.card.provenance["teachers"]] == ["best.safetensors"]
    options = ["--train", "data.conll", "--dev", "data.conll", "--teacher", "teacher/best.safetensors"]
    ended = nertrainer(folder, "train", *options, "--labels", "MISC=", "--run", "x")
    assert ended.code == 1
    assert "train it on the same labels" in ended.err.strip().split("\n")[-1]


def test_names_are_of_labels_that_are_trained(folder: Path) -> None:
    """Files of names are kept with the run and its model, and refused in one line where they do not fit."""
    (folder / "names.tsv").write_text("LOC\tNew Bergen\nPER\tZoë\n", encoding="utf-8")
    model, _ = trained(folder, "run", hidden=8, gazetteer="names.tsv", replace_mentions=0.5)
    assert [origin["file"] for origin in model.card.provenance["gazetteers"]] == ["names.tsv"]
    assert model.card.provenance["recipe"]["replace_mentions"] == 0.5
    assert str(folder / "names.tsv") in (folder / "run/config.toml").read_text(encoding="utf-8")
    (folder / "names.tsv").write_text("SHIP\tArgo\n")
    ended = nertrainer(
        folder, "train", "--train", "data.conll", "--dev", "data.conll", "--gazetteer", "names.tsv", "--run", "x"
    )
    assert ended.code == 1
    assert "names.tsv:1: label 'SHIP' is not one of those trained" in ended.err.strip().split("\n")[-1]


def test_labels_that_a_corpus_lacks_are_said_to_stay_open(folder: Path) -> None:
    """Beside a corpus with four labels, one without MISC is told to teach nothing against it."""
    (folder / "tweets.conll").write_text("Bergen B-LOC\nis O\nfar O\n\nZoë B-PER\nleft O\nNATO B-ORG\n")
    _, said = trained(folder, "run", train="data.conll tweets.conll", hidden=8)
    assert "tweets.conll: does not annotate MISC" in said
    assert "data.conll: does not annotate" not in said
    ended = nertrainer(folder, "train", "--no-open-labels", "--resume", "run")
    assert "leave out --no-open-labels" in ended.err or "leave out --open-labels" in ended.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start", "data.conll", "--hidden", "9"], "--start does not go with --hidden"),
        (["--start", "data.conll", "--char-filters", "0"], "--start does not go with --char-filters"),
        (["--start", "data.conll", "--vectors", "one.txt"], "--start does not go with --vectors"),
        (["--loss", "softmax", "--teacher", "data.conll"], "--loss softmax does not go with --teacher"),
        (["--gazetteer", "one.txt", "--teacher", "data.conll"], "--gazetteer does not go with --teacher"),
        (["--replace-mentions", "0.5"], "--replace-mentions is said of a gazetteer"),
        (["--word-rows", "9"], "--word-rows is said of vectors"),
        (["--start", "none.safetensors"], "none.safetensors: No such file"),
        (["--teacher", "data.conll"], "not a whole safetensors file"),
        (["--vectors", "one.txt", "--vector-size", "7"], "the vectors have 6 numbers"),
    ],
)
def test_options_that_cannot_be_met_are_refused_in_one_line(folder: Path, options: list[str], message: str) -> None:
    """Before any training, with the option or file named."""
    ended = nertrainer(folder, "train", "--train", "data.conll", "--dev", "data.conll", "--run", "run", *options)
    assert ended.code == 1
    assert message in ended.err.strip().split("\n")[-1]
    assert not (folder / "run").exists()
