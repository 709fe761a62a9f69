"""Figures of annotated files, sentences that stand twice, and the command that shows both."""

import json
import math
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.trainer.conftest import Command

from nermodel.tags import Span
from nertrainer.check import Coverage, Overlap, coverage, duplicates, figures, overlap, word_counts
from nertrainer.commands.options import read_label_map, say_coverage, say_overlap, say_unused_labels
from nertrainer.corpus import Corpus, CorpusError, Sentence

TRAIN = "Mary B-PER\nleft O\nOslo B-LOC\n\nYes O\n\nYes O\n"
DEV = "Yes O\n\nmary O\nleft O\nRome B-LOC\n\nSiemens B-ORG\n\nYes O\n"


def corpus(name: str, *sentences: str, label: str = "") -> Corpus:
    """A corpus of these sentences, one a line, each of one entity if there is a label."""
    spans = (Span(0, 1, label),) if label else ()
    found = [Sentence(tuple(words.split()), spans) for words in sentences]
    places = [f"{name}:{line}" for line, _ in enumerate(sentences, 1)]
    return Corpus(Path(name), found, "BIO", [], places, frozenset({label} - {""}), "", [Path(name)])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=300))
def test_percentiles_are_lengths_that_so_many_sentences_do_not_exceed(lengths: list[int]) -> None:
    """They are those of numpy's nearest rank."""
    found = figures(corpus("a", *("w " * length for length in lengths))).lengths
    expected = np.percentile(lengths, [50, 90, 99, 100], method="inverted_cdf")
    assert found == dict(zip(("50", "90", "99", "max"), expected.tolist(), strict=True))


def test_oov_and_coverage_count_lower_cased_words() -> None:
    """The share of the tokens that are new, and of tokens and distinct words that have a vector."""
    dev = corpus("b", "Yes yes Rome", "OSLO", label="X")
    found = figures(dev, word_counts([corpus("a", "oslo YES")]), {"rome", "oslo", "paris"})
    assert (found.sentences, found.tokens, found.types) == (2, 4, {"X": 2})
    assert found.oov == 1 / 4
    assert found.covered == coverage(word_counts([dev]), {"rome", "oslo"}) == Coverage(2 / 4, 2 / 3)
    assert figures(dev).oov is None
    assert figures(dev).covered is None


FEW = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=8)


@given(FEW, FEW, FEW)
def test_overlaps_are_those_of_a_search_for_each_sentence(
    first: list[str], second: list[str], later: list[str]
) -> None:
    """Count, share and the first place on both sides agree with looking for every sentence from the start."""
    earlier = [*first, *second]
    again = [at for at, words in enumerate(later) if words in earlier]
    found = overlap([corpus("a", *first), corpus("b", *second)], [corpus("c", *later)])
    if not again:
        assert found is None
    else:
        place = earlier.index(later[again[0]])
        name = f"a:{place + 1}" if place < len(first) else f"b:{place - len(first) + 1}"
        assert found == Overlap(len(again), len(again) / len(later), name, f"c:{again[0] + 1}")


@given(FEW)
def test_duplicates_are_sentences_that_stand_further_up(sentences: list[str]) -> None:
    """Every sentence but the first of its like counts."""
    again = [at for at, words in enumerate(sentences) if words in sentences[:at]]
    found = duplicates(corpus("a", *sentences))
    assert sum(count - 1 for count in Counter(sentences).values()) == (found.count if found else 0)
    if found:
        first = sentences.index(sentences[again[0]])
        assert found == Overlap(len(again), len(again) / len(sentences), f"a:{first + 1}", f"a:{again[0] + 1}")


def test_words_in_another_case_are_another_sentence() -> None:
    """Sentences are the same where their words are, letter by letter."""
    assert overlap([corpus("a", "Yes .")], [corpus("b", "yes .", "Yes.")]) is None


def test_dev_sentences_seen_in_training_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """The warning has the count, the share and both places; without any there is none."""
    say_overlap([corpus("a", "x", "y")], [corpus("b", "z")])
    assert capsys.readouterr().err == ""
    say_overlap([corpus("a", "x", "y")], [corpus("b", "z", "y"), corpus("c", "y", "z")])
    said = capsys.readouterr().err
    assert said.startswith("warning: 2 of the dev sentences (50.0 %)")
    assert "b:2, which is a:2" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("w0 w1 w2 w3 w4 w5", "73 % of the training tokens and 60 % of their distinct words have a vector"),
        ("w0 w1 w2 w3", "warning: only 60 % of the training tokens and 40 % of their distinct words have a vector"),
    ],
)
def test_vectors_of_few_words_are_warned_of(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    """Less than half of the distinct words with a vector is said to be odd."""
    text = corpus("a", "W0 w0 w0 w0 w0", " ".join(f"w{word}" for word in range(10)))
    say_coverage([text], words.split())
    assert capsys.readouterr().err.startswith(message)


def test_vectors_of_next_to_no_token_are_refused() -> None:
    """Nine tokens in a hundred are too few, ten are not."""
    text = corpus("a", *["the of"] * 9, *["of of"] * 40, "x in")
    with pytest.raises(CorpusError, match=r"only 9 % of the training tokens"):
        say_coverage([text], {"the"})
    say_coverage([text], {"the", "x"})


def test_a_label_that_no_file_holds_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """A typo in a label map is said with the labels that exist; one that any file holds is none."""
    files = [corpus("a", "x", label="person"), corpus("b", "x", label="group")]
    say_unused_labels({"person": "PER", "group": ""}, files)
    assert capsys.readouterr().err == ""
    say_unused_labels({"person": "PER", "persn": "PER"}, files)
    assert capsys.readouterr().err == "warning: --labels names persn, which no file holds; they hold group, person\n"


def test_spaces_around_the_names_of_a_label_map_do_not_count() -> None:
    """They are no part of a label; an empty part between commas says nothing."""
    assert read_label_map("PER = PERSON, LOC=place,product=, ") == {"PER": "PERSON", "LOC": "place", "product": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PER=X, PER=Y", "renames PER twice"),
        ("PER=LOC=ORG", "'PER=LOC=ORG', expected OLD=NEW"),
        ("PER", "'PER', expected OLD=NEW"),
        ("=X", "'=X', expected OLD=NEW"),
        ("PER=A B", "new label 'A B' holds white space"),
        ("PER=\x1bX", "--labels: the new label '.x1bX' holds a control character"),
        ("PER=\udcff", "--labels: the new label .* half of a surrogate pair"),
    ],
)
def test_a_label_map_that_could_mean_two_things_is_refused(text: str, message: str) -> None:
    """Each part renames one label once, and to one that a tag can hold."""
    with pytest.raises(ValueError, match=message):
        read_label_map(text)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Command:
    """Run the command in a folder that holds train.txt and dev.txt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("train.txt").write_text(TRAIN)
    Path("dev.txt").write_text(DEV)
    return partial(command, "check")


def test_json_holds_everything(check: Command) -> None:
    """One object: each file's figures, labels that it lacks and repairs, and the overlaps."""
    Path("odd.txt").write_text("Rome I-LOC\nMary B-PER\n\nBonn B-LOC\n")
    ran = check("train.txt", "dev.txt", "odd.txt", "--json", "--labels", "PER=person")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    train, dev, odd = found["files"]
    assert train == {
        "file": "train.txt",
        "scheme": "BIO",
        "form": "word 1, tag 2 of 2 columns",
        "sentences": 3,
        "tokens": 5,
        "entities": 2,
        "types": {"LOC": 1, "person": 1},
        "lengths": {"50": 1, "90": 3, "99": 3, "max": 3},
        "oov": None,
        "covered": None,
        "lacking": ["ORG"],
        "repairs": [],
    }
    assert math.isclose(dev["oov"], 2 / 6)
    assert dev["lacking"] == ["person"]
    assert odd["repairs"] == ["odd.txt:1: I-LOC where BIO has B-LOC"]
    assert found["overlaps"] == [
        {"files": ["train.txt"] * 2, "count": 1, "share": 1 / 3, "first": "train.txt:5", "again": "train.txt:7"},
        {"files": ["dev.txt"] * 2, "count": 1, "share": 1 / 4, "first": "dev.txt:1", "again": "dev.txt:9"},
        {"files": ["train.txt", "dev.txt"], "count": 2, "share": 2 / 4, "first": "train.txt:5", "again": "dev.txt:1"},
    ]
    assert found["errors"] == []


def test_people_get_tables_that_fit_a_terminal(check: Command) -> None:
    """Schemes, counts, types, overlaps and the first repairs, in 80 columns."""
    Path("odd.txt").write_text("x I-LOC\nMary B-PER\n\n" + "y B-LOC\nz I-PER\n\n" * 5)
    Path("vectors.txt").write_text("".join(f"{word} 1 2\n" for word in ("mary", "left", "yes")))
    ran = check("train.txt", "dev.txt", "odd.txt", "--vectors", "vectors.txt")
    assert ran.code == 0, ran.err
    assert all(len(line) <= 80 for line in ran.out.splitlines())
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["dev.txt", "BIO", "4", "6", "2", "33.3", "%", "0"] in rows
    assert ["train.txt", "1", "3", "3", "3", "80.0", "%", "75.0", "%"] in rows
    assert ["dev.txt", "LOC", "1", "ORG", "1"] in rows
    assert ["no", "PER"] in rows
    assert ["train.txt:5", "dev.txt:1", "2", "50.0", "%"] in rows
    assert ["6", "mended", "or", "left", "out:"] in rows
    assert "odd.txt:1: I-LOC where BIO has B-LOC" in ran.out
    assert "odd.txt:8: " in ran.out
    assert "odd.txt:11: " not in ran.out  # the fourth


def test_a_bad_file_does_not_hide_the_others(check: Command) -> None:
    """Each file that cannot be trained on gets one line and the exit code is 1; the rest is shown."""
    Path("bad.jsonl").write_text("{}\n")
    Path("plain.txt").write_text("word O\n")
    ran = check("train.txt", "bad.jsonl", "none.txt", "plain.txt", "dev.txt", "--json")
    assert ran.code == 1
    said = ran.err.splitlines()
    assert len(said) == 3
    assert said[0].startswith("nertrainer: bad.jsonl:1: no text")
    assert said[1].startswith("nertrainer: none.txt: No such file")
    assert said[2].startswith("nertrainer: plain.txt: holds no entity")
    found = json.loads(ran.out)
    assert [each["file"] for each in found["files"]] == ["train.txt", "plain.txt", "dev.txt"]
    assert [f"nertrainer: {error}" for error in found["errors"]] == said


def test_without_a_training_file_nothing_is_new(check: Command) -> None:
    """If the first file cannot be read, no other takes its place as what words are known."""
    ran = check("none.txt", "train.txt", "dev.txt", "--json")
    assert [each["oov"] for each in json.loads(ran.out)["files"]] == [None, None]
    ran = check("none.txt")
    assert (ran.code, ran.out) == (1, "")


def test_vectors_that_training_would_refuse_are_an_error(check: Command) -> None:
    """Vectors for none of the training tokens end with exit code 1, and the tables are shown all the same."""
    Path("vectors.txt").write_text("foreign 1 2\n")
    ran = check("train.txt", "--vectors", "vectors.txt")
    assert ran.code == 1
    assert "nertrainer: only 0 % of the training tokens" in ran.err
    assert "train.txt" in ran.out


def test_a_typo_in_a_label_map_is_said(check: Command) -> None:
    """The command warns of a label that no file holds."""
    ran = check("train.txt", "--labels", "PERS=person")
    assert (ran.code, ran.err) == (0, "warning: --labels names PERS, which no file holds; they hold LOC, PER\n")


def test_a_label_map_that_drops_all_is_said(check: Command) -> None:
    """A file whose labels are all dropped is not blamed for having none."""
    ran = check("train.txt", "--labels", "PER=,LOC=")
    assert ran.code == 1
    assert ran.err == ("nertrainer: train.txt: --labels drops every label that it holds (LOC, PER); keep one of them\n")


def test_a_tiny_terminal_gets_whole_words(check: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a table would be a heap of letters, lines are longer than the terminal instead."""
    monkeypatch.setenv("COLUMNS", "20")
    assert "tokens in a sentence" in check("train.txt", "dev.txt").out
