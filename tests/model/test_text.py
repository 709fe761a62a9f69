"""Tokens and sentences of raw text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nermodel.text import split_sentences, tokenize


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in tokenize(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Apple Inc. was founded by Steve Jobs.", ["Apple", "Inc.", "was", "founded", "by", "Steve", "Jobs", "."]),
        ("the U.S. and the U.K.", ["the", "U.S.", "and", "the", "U.K."]),
        ("Maria's can't, didn’t", ["Maria", "'s", "ca", "n't", ",", "did", "n’t"]),
        ("O'Neil of AT&T and Coca-Cola's", ["O'Neil", "of", "AT&T", "and", "Coca-Cola", "'s"]),
        ("J. K. Rowling (@jk_rowling) #books", ["J.", "K.", "Rowling", "(", "@jk_rowling", ")", "#books"]),
        ("a@b.org or https://x.org/a?b=1.", ["a@b.org", "or", "https://x.org/a?b=1", "."]),
        ("won 3-2 for $1,000.50...", ["won", "3-2", "for", "$", "1,000.50", "..."]),
        ("Jose\u0301 \U0001f600\u200bok", ["Jose\u0301", "\U0001f600", "\u200b", "ok"]),
    ],
)
def test_tokens_follow_the_treebank_and_the_web(text: str, expected: list[str]) -> None:
    """Abbreviations, clitics, handles, addresses and numbers are cut as the public corpora cut them."""
    assert words(text) == expected


@given(st.text())
def test_tokens_hold_everything_but_white_space(text: str) -> None:
    """Tokens ascend, do not overlap, hold no white space, and leave out nothing else."""
    spans = tokenize(text)
    assert all(start < end for start, end in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    assert "".join(words(text)) == "".join(text.split())


@given(st.text(alphabet=st.sampled_from("Ab.!? \n\t\"'()é\u200b\x00\U0001f600"), max_size=80))
def test_sentences_lose_no_token(text: str) -> None:
    """Sentences ascend, none is empty, and put together they are the text."""
    spans = split_sentences(text)
    assert all(start < end for start, end in spans)
    assert "".join(text[start:end] for start, end in spans) == text


def test_sentences_end_where_a_reader_ends_them() -> None:
    """A full stop ends a sentence, an abbreviation's does not."""
    text = "Mr. Smith left the U.S. on Monday. He was tired!  Who isn't?"
    found = [text[start:end].strip() for start, end in split_sentences(text)]
    assert found == ["Mr. Smith left the U.S. on Monday.", "He was tired!", "Who isn't?"]


def test_paragraphs_end_sentences() -> None:
    """A blank line ends a sentence, and offsets count from the start of the text in every paragraph."""
    text = "One line\n\nTwo lines. Three\n\n\n\nfour"
    assert [text[start:end].strip() for start, end in split_sentences(text)] == [
        "One line",
        "Two lines.",
        "Three",
        "four",
    ]
