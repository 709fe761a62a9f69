"""Splitting in pieces and in a thread equals splitting at once; offsets equal brute force in every unit."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerserver import splitting
from nerserver.splitting import Piece, Split, Unit, converted, pieces, split, split_all

bits = ["a", "B", ". ", " ", "\n", "\n\n", "\r\n", "\t", "é", "😀", "\u200b", "(", '"', "Dr. "]
texts = st.lists(st.sampled_from(bits), max_size=20).map("".join)


@pytest.fixture(scope="module")
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@given(texts)
def test_offsets_are_those_of_the_words(text: str) -> None:
    """Every word is found again at its offsets, which ascend."""
    parts = split(text)
    words = [word for words in parts.sentences for word in words]
    assert [text[start:end] for start, end in parts.offsets] == words
    assert parts.offsets == sorted(parts.offsets)
    assert all(parts.sentences)


@given(st.lists(texts, max_size=4))
@settings(max_examples=200)
def test_pieces(batch: list[str]) -> None:
    """Texts cut into pieces give the sentences of the whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "PIECE_CHARS", 5)
        parts = [Split([], []) for _ in batch]
        for row, start, end in pieces(batch):
            part = split(batch[row], start, end)
            parts[row].sentences += part.sentences
            parts[row].offsets += part.offsets
    assert parts == [split(text) for text in batch]


async def test_long_texts_go_to_the_thread(thread: ThreadPoolExecutor) -> None:
    """Many paragraphs, many texts and one endless line all give what splitting them at once gives."""
    batch = ["Ada met Babbage in London.\n\nShe left. " * 600, "", "word " * 3000, *["Short one."] * 500]
    assert await split_all(batch, thread) == [split(text) for text in batch]


async def test_cutting_goes_to_the_thread(thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text is not even looked through in the event loop."""
    where: list[int] = []

    def noted(texts: Sequence[str]) -> Iterator[Piece]:
        where.append(threading.get_ident())
        yield from pieces(texts)

    monkeypatch.setattr(splitting, "pieces", noted)
    await split_all(["word " * 3000], thread)
    assert where
    assert threading.get_ident() not in where


def brute_force(text: str, offset: int, unit: Unit) -> int:
    before = text[:offset]
    if unit is Unit.UTF8_BYTE:
        return len(before.encode())
    return sum(2 if ord(char) > 0xFFFF else 1 for char in before) if unit is Unit.UTF16_UNIT else len(before)


@given(st.text(st.sampled_from("ab é中😀\0\u200b")), st.sets(st.integers(0, 30)), st.sampled_from(Unit))
def test_units(text: str, cuts: set[int], unit: Unit) -> None:
    """Offsets count code points, UTF-8 bytes or UTF-16 units."""
    bounds = sorted(cut for cut in cuts if cut <= len(text))
    offsets = list(zip(bounds[::2], bounds[1::2], strict=False))
    found = converted(offsets, text, unit)
    assert list(found) == [tuple(brute_force(text, bound, unit) for bound in pair) for pair in offsets]
