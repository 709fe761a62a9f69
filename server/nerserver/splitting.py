"""Raw text to tokenised sentences, without standing in the event loop's way, and offsets in the caller's unit."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from nermodel.text import split_sentences, tokenize

INLINE_CHARS = 2000  # take about 2 ms; what is longer goes to the thread
PIECE_CHARS = 8000
# A blank line between two words. Each run of white space is looked at once, so that no text takes quadratic time.
_BLANK_LINE = re.compile(r"(?<=[^\s\u200b])[ \t\r]*+\n[ \t\r]*+\n[ \t\r\n]*+(?=[^\s\u200b])")

Offsets = tuple[int, int]


class Unit(Enum):
    """What offsets into raw text count."""

    CODE_POINT = 1
    UTF8_BYTE = 2
    UTF16_UNIT = 3


@dataclass
class Split:
    """Tokenised sentences, and where their tokens lie in the text, in code points, one after another."""

    sentences: list[list[str]]  # each of one token or more
    offsets: list[Offsets]


class Piece(NamedTuple):
    """Whole sentences of a text: where they begin and end."""

    row: int  # of the text
    start: int
    end: int


def split(text: str, start: int = 0, end: int | None = None) -> Split:
    """Split a part of a text, to its end by default."""
    part = text[start:end]
    result = Split([], [])
    for sentence_start, sentence_end in split_sentences(part):
        sentence = part[sentence_start:sentence_end]
        tokens = tokenize(sentence)
        if tokens:
            result.sentences.append([sentence[a:b] for a, b in tokens])
            base = start + sentence_start
            result.offsets += [(base + a, base + b) for a, b in tokens]
    return result


def pieces(texts: Sequence[str]) -> Iterator[Piece]:
    """Cut texts at blank lines, which always end a sentence, into pieces of PIECE_CHARS or a paragraph more."""
    for row, text in enumerate(texts):
        start = 0
        for blank in _BLANK_LINE.finditer(text):
            if blank.end() - start >= PIECE_CHARS:
                yield Piece(row, start, blank.end())
                start = blank.end()
        if start < len(text):
            yield Piece(row, start, len(text))


async def split_all(texts: Sequence[str], thread: Executor) -> list[Split]:
    """Split each text: a little text at once, more in the thread, a piece at a time, in turn with other callers'."""
    if sum(map(len, texts)) <= INLINE_CHARS:
        return [split(text) for text in texts]
    results = [Split([], []) for _ in texts]
    loop = asyncio.get_running_loop()
    for group in await loop.run_in_executor(thread, list, _groups(pieces(texts))):
        for row, part in await loop.run_in_executor(thread, _split_each, texts, group):
            results[row].sentences += part.sentences
            results[row].offsets += part.offsets
    return results


def converted(offsets: Sequence[Offsets], text: str, unit: Unit) -> Sequence[Offsets]:
    """Code point offsets, ascending and without overlap, in another unit; one pass over the text."""
    if unit is Unit.CODE_POINT or text.isascii():
        return offsets
    result = []
    seen, counted = 0, 0
    for start, end in offsets:
        first = counted + _length(text[seen:start], unit)
        counted = first + _length(text[start:end], unit)
        seen = end
        result.append((first, counted))
    return result


def _length(text: str, unit: Unit) -> int:
    return len(text.encode()) if unit is Unit.UTF8_BYTE else len(text.encode("utf-16-le")) // 2


def _split_each(texts: Sequence[str], group: Sequence[Piece]) -> list[tuple[int, Split]]:
    return [(row, split(texts[row], start, end)) for row, start, end in group]


def _groups(found: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Small pieces together, PIECE_CHARS or a piece more."""
    group: list[Piece] = []
    chars = 0
    for piece in found:
        group.append(piece)
        chars += piece.end - piece.start
        if chars >= PIECE_CHARS:
            yield group
            group, chars = [], 0
    if group:
        yield group
