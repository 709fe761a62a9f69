"""Mention replacement: other names in the place of those in a text."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nermodel.tags import Span
from nertrainer.corpus import CorpusError, Sentence
from nertrainer.mentions import Mentions, read_gazetteer

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
    mentions = Mentions([sentence], LISTED)
    found = mentions.replaced(sentence, share, random.Random(seed))
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
            written = str.upper if " ".join(sentence.words).isupper() else str.lower if " ".join(old).islower() else str
            assert new == old or new in [tuple(map(written, name)) for name in mentions.by_label[label]]


def test_every_name_has_its_turn() -> None:
    """With a share of one, all names of the label come up, those of the text among them, and no handle does."""
    words = ("Mary", "met", "@", "bot", "and", "#Lima", ".")
    spans = (Span(0, 1, "PER"), Span(3, 4, "PER"), Span(5, 6, "PER"))
    mentions = Mentions([Sentence(words, spans)], LISTED)
    rng = random.Random(1)
    drawn = {mentions.replaced(Sentence(("Mary", "slept"), (Span(0, 1, "PER"),)), 1, rng).words[:-1] for _ in range(99)}
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
    mentions = Mentions([sentence], LISTED)
    rng = random.Random(1)
    assert {mentions.replaced(sentence, 1, rng).words for _ in range(99)} == expected


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_share_is_of_all_names(share: float) -> None:
    """Of many names about so many are replaced, and which differs from one time to the next."""
    sentence = Sentence(("Mary", "met") * 400, tuple(Span(at, at + 1, "PER") for at in range(0, 800, 2)))
    mentions = Mentions([], {"PER": [("Pelé",)]})
    rng = random.Random(1)
    first, second = (mentions.replaced(sentence, share, rng).words for _ in range(2))
    assert first.count("Pelé") / 400 == pytest.approx(share, abs=0.1)
    assert first != second


def test_a_gazetteer_is_read_by_label(tmp_path: Path) -> None:
    """A label, a tab and a name on each line of some files; the name is cut into tokens as text is."""
    (tmp_path / "one.tsv").write_text("PER\tJ. K. Rowling\r\nLOC\tSt. John's\r\n\r\n", encoding="utf-8")
    (tmp_path / "two.tsv").write_text("PER\tPelé", encoding="utf-8")
    assert read_gazetteer([tmp_path / "one.tsv", tmp_path / "two.tsv"], ["LOC", "PER"]) == {
        "PER": [("J.", "K.", "Rowling"), ("Pelé",)],
        "LOC": [("St.", "John", "'s")],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PER Ada\n", "names.tsv:1: not a name after one tab"),
        ("PER\tAda\nLOC\t \n", "names.tsv:2: not a name after one tab"),
        ("PER\tAda\tLovelace\n", "names.tsv:1: not a name after one tab"),
        ("PER\t@ada\n", "names.tsv:1: not a name after one tab"),
        ("PER\t1815\n", "names.tsv:1: not a name after one tab"),
        (f"PER\t{'Ada ' * 31}\n", "names.tsv:1: not a name after one tab"),
        ("PER\tAda\nORG\tAcme\n", "names.tsv:2: label 'ORG' is not one of those trained, LOC, PER"),
        ("\n", "names.tsv: holds no name"),
    ],
)
def test_a_file_that_is_no_gazetteer_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With the file, the line and what to give."""
    path = tmp_path / "names.tsv"
    path.write_text(text)
    with pytest.raises(CorpusError) as raised:
        read_gazetteer([path], ["LOC", "PER"])
    assert message in str(raised.value)
    assert "give " in str(raised.value)
