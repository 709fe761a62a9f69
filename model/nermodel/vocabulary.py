"""Words and characters as the network's ids: words in lower case, characters as written.

A word with digits that has no row of its own is looked up with every digit as 0: 1996-08-22 as 0000-00-00.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

PAD, UNK = 0, 1  # in every table; the first word or character has id 2
MAX_WORD_CHARS = 32  # the char encoder reads so many characters of a word, from its start
CASINGS = 7  # rows of the casing feature
PIECE = 4096  # words taken in at once: between two pieces the threads of a server that loads go on
_DIGIT = re.compile(r"\d")
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """Words (in lower case, without PAD and UNK) and characters that have a row.

    The last `len(shared)` words share rows with earlier ones; each other word has its own, from 2 upwards.
    """

    words: Sequence[str]
    chars: str
    shared: Sequence[int] = ()  # rows
    _word_ids: dict[str, int] = field(init=False, repr=False, compare=False)
    _char_ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = len(self.words) - len(self.shared)
        if self.shared and not (min(self.shared) >= 2 and max(self.shared) < own + 2):
            raise ValueError("a word of the vocabulary shares a row that is no other word's")
        rows = [*range(2, own + 2), *self.shared]
        ids: dict[str, int] = {}
        for first in range(0, len(rows), PIECE):
            some = slice(first, first + PIECE)
            ids.update(zip(self.words[some], rows[some], strict=True))
        object.__setattr__(self, "_word_ids", ids)
        object.__setattr__(self, "_char_ids", {char: row for row, char in enumerate(self.chars, 2)})
        if len(self._word_ids) != len(self.words) or len(self._char_ids) != len(self.chars):
            raise ValueError("a word or character stands twice in the vocabulary")

    @classmethod
    def build(
        cls,
        sentences: Iterable[Sequence[str]],
        min_freq: int,
        extra: Iterable[str] = (),
        shared: Mapping[str, str] | None = None,
    ) -> Self:
        """Of words seen `min_freq` times or more, most frequent first, then `extra` words (those of word vectors, say).

        Seen words with digits that are not among the extra ones are counted with every digit as 0. `shared` gives
        further words, each with the extra word whose row it shares. Characters are those of the sentences alone.
        """
        added = dict.fromkeys(map(str.lower, extra))
        known: Container[str] = {*added, *(shared or ())}
        words: Counter[str] = Counter()
        chars: Counter[str] = Counter()
        for sentence in sentences:
            lower = map(str.lower, sentence)
            words.update(word if word in known else folded(word) for word in lower)
            chars.update(char for word in sentence for char in word)
        seen = [word for word, count in words.most_common() if count >= min_freq]
        # A word with a line feed could not be told from two in the checkpoint; it keeps its char encoding.
        table = dict.fromkeys(word for word in (*seen, *added) if "\n" not in word)
        rows = {word: row for row, word in enumerate(table, 2)}
        further = sorted((word, near) for word, near in (shared or {}).items() if word not in rows and "\n" not in word)
        tail = {word: rows[near] for word, near in further}
        return cls((*table, *tail), "".join(char for char, _ in chars.most_common()), tuple(tail.values()))

    @property
    def word_rows(self) -> int:
        """Rows of the word table, PAD and UNK included."""
        return len(self.words) - len(self.shared) + 2

    @property
    def char_rows(self) -> int:
        """Rows of the character table, PAD and UNK included."""
        return len(self.chars) + 2

    def word_ids(self, words: Sequence[str]) -> Ids:
        """Row of each word [U]; UNK for a word without one."""
        return np.fromiter(map(self.word_id, words), np.int64, len(words))

    def word_id(self, word: str) -> int:
        """Row of a word; UNK if it has none."""
        lower = word.lower()
        row = self._word_ids.get(lower)
        return self._word_ids.get(folded(lower), UNK) if row is None else row

    def char_ids(self, words: Sequence[str]) -> Ids:
        """Rows of each word's characters, padded [U, L] with L the longest, at least 1 and at most MAX_WORD_CHARS."""
        ids = self._char_ids
        longest = min(max(map(len, words), default=1), MAX_WORD_CHARS)
        rows = np.zeros((len(words), max(longest, 1)), np.int64)
        for row, word in zip(rows, words, strict=True):
            cut = word[:MAX_WORD_CHARS]
            row[: len(cut)] = [ids.get(char, UNK) for char in cut]
        return rows


def folded(word: str) -> str:
    """The word with every digit as 0."""
    return _DIGIT.sub("0", word)


def casing(word: str) -> int:
    """Row of the casing feature: 0 no letter or digit, 1 number, 2 with a digit, 3 lower, 4 UPPER, 5 Title, 6 mixed."""
    if word.isdecimal():
        return 1
    if any(char.isdigit() for char in word):
        return 2
    if not any(char.isalpha() for char in word):
        return 0
    if word.islower():
        return 3
    if word.isupper():
        return 4
    return 5 if word[0].isupper() and word[1:].islower() else 6
