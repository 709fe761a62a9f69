"""Spans, tags and what may follow what."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nermodel.tags import (
    SCHEMES,
    Scheme,
    Span,
    check_table,
    may_end,
    may_follow,
    may_start,
    spans_to_tags,
    tag_table,
    tags_to_spans,
)


@st.composite
def sentences(draw: st.DrawFn) -> tuple[int, list[Span]]:
    """A length and disjoint spans within it."""
    cuts = draw(st.lists(st.integers(0, 12), max_size=8, unique=True).map(sorted))
    spans = [Span(start, end, draw(st.sampled_from("XY"))) for start, end in pairwise(cuts) if draw(st.booleans())]
    return 12, spans


@given(sentences(), st.sampled_from(SCHEMES))
def test_tags_give_their_spans_back(sentence: tuple[int, list[Span]], scheme: Scheme) -> None:
    """Spans survive being written as tags of either scheme."""
    length, spans = sentence
    assert tags_to_spans(spans_to_tags(spans, length, scheme)) == spans


@pytest.mark.parametrize("scheme", SCHEMES)
def test_legal_sequences_are_those_that_spans_can_write(scheme: Scheme) -> None:
    """Of all sequences of three tags, exactly those that some spans are written as are legal."""
    table = tag_table("XY", scheme)
    for tags in product(table, repeat=3):
        writable = spans_to_tags(tags_to_spans(tags), 3, scheme) == list(tags)
        legal = (
            may_start(tags[0])
            and may_follow(table, tags[0], tags[1])
            and may_follow(table, tags[1], tags[2])
            and may_end(table, tags[2])
        )
        assert legal == writable, tags


@pytest.mark.parametrize("spans", [[Span(0, 2, "X"), Span(1, 3, "X")], [Span(2, 5, "X")], [Span(1, 1, "X")]])
def test_spans_that_cannot_be_written_are_refused(spans: list[Span]) -> None:
    """Overlapping, outlying and empty spans are the caller's error."""
    with pytest.raises(ValueError, match="span"):
        spans_to_tags(spans, 4, "BIO")


@pytest.mark.parametrize(
    "table",
    [
        (),
        ("O",),
        ("B-X", "I-X", "O"),
        ("O", "B-X", "I-Y"),
        tag_table(["big person"], "BIO"),
        tag_table([""], "BIO"),
        tag_table(map(str, range(128)), "BIO"),
    ],
)
def test_tables_that_no_model_may_have(table: tuple[str, ...]) -> None:
    """A table must be that of some labels without white space, in one scheme, and fit a byte."""
    with pytest.raises(ValueError, match="label"):
        check_table(table)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tables_of_labels_pass(scheme: Scheme) -> None:
    """What `tag_table` makes is a table."""
    check_table(tag_table(("PER", "LOC", "event-name"), scheme))
