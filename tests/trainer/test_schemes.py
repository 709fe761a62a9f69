"""Which scheme tags are written in, and what they mean."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from nermodel.tags import Span
from nertrainer.schemes import SCHEMES, repairs_of, scheme_of, spans_of

PARTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.sampled_from("XY")), max_size=5)
SENTENCES = st.lists(PARTS, min_size=1, max_size=5)


def sentence(parts: list[tuple[int, int, str]]) -> tuple[list[Span], int]:
    """Spans of these lengths and labels with these gaps behind them, and the tokens in all."""
    at, spans = 0, []
    for length, gap, label in parts:
        spans.append(Span(at, at + length, label))
        at += length + gap
    return spans, at


def neighbours(spans: list[Span]) -> list[Span]:
    """Spans that follow one of their label at once."""
    return [b for a, b in pairwise(spans) if (a.end, a.label) == (b.start, b.label)]


def write(spans: list[Span], length: int, scheme: str) -> list[str]:
    """Tags as each scheme's definition says, token by token."""
    tags = ["O"] * length
    for span in spans:
        for at in range(span.start, span.end):
            first, last = at == span.start, at == span.end - 1
            prefix = {
                "IO": "I",
                "IOB1": "B" if first and span in neighbours(spans) else "I",
                "BIO": "B" if first else "I",
                "BIOES": "S" if first and last else "B" if first else "E" if last else "I",
                "BILOU": "U" if first and last else "B" if first else "L" if last else "I",
            }[scheme]
            tags[at] = f"{prefix}-{span.label}"
    return tags


def merged(spans: list[Span]) -> list[Span]:
    """Spans with neighbours of one label made one, as IO cannot part them."""
    found: list[Span] = []
    for span in spans:
        if found and (found[-1].end, found[-1].label) == (span.start, span.label):
            found[-1] = Span(found[-1].start, span.end, span.label)
        else:
            found.append(span)
    return found


@given(SENTENCES, st.sampled_from(SCHEMES))
def test_what_is_written_in_a_scheme_is_told_and_read(sentences: list[list[tuple[int, int, str]]], scheme: str) -> None:
    """The spans come back, nothing counts as broken, and the scheme is the one, or IO where IOB1 writes the same."""
    spans = [sentence(parts)[0] for parts in sentences]
    tags = [write(*sentence(parts), scheme) for parts in sentences]
    read = [spans_of(each) for each in tags]
    assert read == ([merged(each) for each in spans] if scheme == "IO" else spans)
    told = scheme_of(zip(tags, read, strict=True))
    if not any(spans):
        assert told == "BIO"
    elif scheme == "IOB1" and not any(neighbours(each) for each in spans):
        assert told == "IO"
    else:
        assert told == scheme
    assert not [repair for each in zip(tags, read, strict=True) for repair in repairs_of(*each, told)]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-X O B-Y O", "BIO"),  # one token each: BIOES would have written S
        ("S-X O S-Y O", "BIOES"),
        ("U-X O U-Y O", "BILOU"),
        ("B-X E-X O", "BIOES"),  # without single ones
        ("I-X O I-Y O", "IO"),  # IOB1 writes the same, and means the same
        ("I-X I-X O I-X B-X", "IOB1"),  # one B after its like is enough
        ("I-X B-Y O", "BIO"),  # as likely IOB1: BIO of equals
        ("O O", "BIO"),
    ],
)
def test_what_two_schemes_could_have_written(tags: str, scheme: str) -> None:
    """Where tags fit more than one scheme, or none, one is named by a rule; the entities are the same in each."""
    assert scheme_of([(tags.split(), spans_of(tags.split()))]) == scheme


def test_io_cannot_part_neighbours_of_one_label() -> None:
    """Two entities of one label side by side are one where a scheme writes only I."""
    assert spans_of(["I-X", "I-X", "I-Y"]) == [Span(0, 2, "X"), Span(2, 3, "Y")]


def test_the_scheme_is_the_one_that_the_fewest_tags_break() -> None:
    """Over every sentence of four tags: so many tags differ from what the scheme writes, and no scheme has fewer."""
    names = ["O", "B-X", "I-X", "E-X", "S-X", "L-X", "U-X", "B-Y", "I-Y"]
    for tags in product(names, repeat=4):
        spans = spans_of(tags)
        told = scheme_of([(tags, spans)])
        apart = {
            scheme: [
                (at, meant)
                for at, (tag, meant) in enumerate(zip(tags, write(spans, 4, scheme), strict=True))
                if tag != meant
            ]
            for scheme in SCHEMES
        }
        assert list(repairs_of(tags, spans, told)) == apart[told], tags
        assert len(apart[told]) == min(map(len, apart.values())), tags


def test_broken_tags_mean_what_seqeval_takes_them_to_mean() -> None:
    """Entities of every sentence of five tags, most of them broken, are those that seqeval finds."""
    for tags in product(["O", "B-X", "I-X", "E-X", "S-X", "I-Y"], repeat=5):
        assert spans_of(tags) == [Span(start, end + 1, label) for label, start, end in get_entities(list(tags))], tags
