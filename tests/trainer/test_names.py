"""Other names in the place of those in a text."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nermodel.tags import Span
from nertrainer.corpus import CorpusError, Sentence
from nertrainer.names import Names, read_names

LISTED = {"PER": [("Ada", "Lovelace"), ("Pelé",)], "LOC": [("Oslo",), ("New", "South", "Wales")]}
OUTSIDE, INSIDE = ("the", "saw", "."), ("Mary", "Lima", "@", "@mary", "#Lima", "ivan", "...")


@st.composite
def sentences(draw: st.DrawFn) -> Sentence:
    """Words, and entities among them of one to three words, some side by side."""
    words: list[str] = []
    spans = []
    for label in draw(st.lists(st.sampled_from(["", "PER", "LOC", "MISC"]), min_size=1, max_size=8)):
        part = draw(st.lists(st.sampled_from(INSIDE if label else OUTSIDE), min_size=1, max_size=3))
        if label:
            spans.append(Span(len(words), len(words) + len(part), label))
        words += part
    return Sentence(tuple(words), tuple(spans), ("ORG",))


def parts(sentence: Sentence) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The words between entities, and those of each."""
    ends = [0, *(end for _, end, _ in sentence.spans)]
    starts = [*(start for start, _, _ in sentence.spans), len(sentence.words)]
    between = [sentence.words[end:start] for end, start in zip(ends, starts, strict=True)]
    return between, [sentence.words[start:end] for start, end, _ in sentence.spans]


@given(sentences(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 9))
def test_names_change_and_nothing_else_does(sentence: Sentence, share: float, seed: int) -> None:
    """Each name stays, or is another of its label; other words, labels and what is no name are as they were."""
    names = Names([sentence], LISTED)
    found = names.swapped(sentence, share, random.Random(seed))
    (between, before), (between_after, after) = parts(sentence), parts(found)
    assert between_after == between
    assert [span.label for span in found.spans] == [span.label for span in sentence.spans]
    assert found.unannotated == sentence.unannotated
    for (start, _, label), old, new in zip(sentence.spans, before, after, strict=True):
        is_fixed = (
            label == "MISC"
            or old[0][0] in "@#"
            or (start > 0 and sentence.words[start - 1] == "@")
            or set(old) <= {"@", "..."}
        )
        if is_fixed or share == 0:
            assert new == old
        else:
            pool = {tuple(map(case, name)) for name in names.by_label[label] for case in (str, str.lower, str.upper)}
            assert new == old or new in pool


def test_every_name_has_its_turn() -> None:
    """With a share of one, all names of the label come up, those of the text among them, and no handle does."""
    words = ("Mary", "met", "@", "bot", "and", "#Lima", ".")
    spans = (Span(0, 1, "PER"), Span(3, 4, "PER"), Span(5, 6, "PER"))
    names = Names([Sentence(words, spans)], LISTED)
    rng = random.Random(1)
    drawn = {names.swapped(Sentence(("Mary", "slept"), (Span(0, 1, "PER"),)), 1, rng).words[:-1] for _ in range(99)}
    assert drawn == {("Mary",), ("Ada", "Lovelace"), ("Pelé",)}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("i", "met", "mary"), {("i", "met", "ada", "lovelace"), ("i", "met", "pelé"), ("i", "met", "mary")}),
        (("I", "MET", "MARY"), {("I", "MET", "ADA", "LOVELACE"), ("I", "MET", "PELÉ"), ("I", "MET", "MARY")}),
        (("I", "met", "MARY"), {("I", "met", "Ada", "Lovelace"), ("I", "met", "Pelé"), ("I", "met", "MARY")}),
    ],
)
def test_names_are_written_as_the_text_is(words: tuple[str, ...], expected: set[tuple[str, ...]]) -> None:
    """In lower case where the name was, in capitals where the whole sentence is."""
    sentence = Sentence(words, (Span(2, 3, "PER"),))
    names = Names([sentence], LISTED)
    rng = random.Random(1)
    assert {names.swapped(sentence, 1, rng).words for _ in range(99)} == expected


def test_names_are_read_by_label(tmp_path: Path) -> None:
    """A label, a tab and a name on each line; the name is cut into tokens as text is."""
    path = tmp_path / "names.tsv"
    path.write_text("PER\tJ. K. Rowling\nLOC\tSt. John's\n\nPER\tPelé\n", encoding="utf-8")
    assert read_names(path, ["LOC", "PER"]) == {
        "PER": [("J.", "K.", "Rowling"), ("Pelé",)],
        "LOC": [("St.", "John", "'s")],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PER Ada\n", "names.tsv:1: no name after a tab"),
        ("PER\tAda\nLOC\t \n", "names.tsv:2: no name after a tab"),
        ("PER\tAda\nORG\tAcme\n", "names.tsv:2: label 'ORG' is in no training file, which have LOC, PER"),
        ("\n", "names.tsv: holds no name"),
    ],
)
def test_a_file_that_holds_no_names_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With the file, the line and what to give."""
    path = tmp_path / "names.tsv"
    path.write_text(text)
    with pytest.raises(CorpusError) as raised:
        read_names(path, ["LOC", "PER"])
    assert message in str(raised.value)
    assert "give " in str(raised.value)
