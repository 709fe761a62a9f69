"""Words and characters as the network's ids: words in lower case, characters as written."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

PAD, UNK = 0, 1  # in every table; the first word or character has id 2
MAX_WORD_CHARS = 32  # the char encoder reads so many characters of a word, from its start
CASINGS = 7  # rows of the casing feature
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """Words (in lower case, without PAD and UNK) and characters that have a row of their own."""

    words: Sequence[str]
    chars: str
    _word_ids: dict[str, int] = field(init=False, repr=False, compare=False)
    _char_ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_word_ids", {word: row for row, word in enumerate(self.words, 2)})
        object.__setattr__(self, "_char_ids", {char: row for row, char in enumerate(self.chars, 2)})
        if len(self._word_ids) != len(self.words) or len(self._char_ids) != len(self.chars):
            raise ValueError("a word or character stands twice in the vocabulary")

    @classmethod
    def build(cls, sentences: Iterable[Sequence[str]], min_freq: int, extra: Iterable[str] = ()) -> Self:
        """Of words seen `min_freq` times or more, most frequent first, then `extra` words (those of word vectors, say).

        Characters are those of the sentences alone.
        """
        words: Counter[str] = Counter()
        chars: Counter[str] = Counter()
        for sentence in sentences:
            words.update(word.lower() for word in sentence)
            chars.update(char for word in sentence for char in word)
        seen = [word for word, count in words.most_common() if count >= min_freq]
        # A word with a line feed could not be told from two in the checkpoint; it keeps its char encoding.
        table = dict.fromkeys(word for word in (*seen, *map(str.lower, extra)) if "\n" not in word)
        return cls(tuple(table), "".join(char for char, _ in chars.most_common()))

    @property
    def word_rows(self) -> int:
        """Rows of the word table, PAD and UNK included."""
        return len(self.words) + 2

    @property
    def char_rows(self) -> int:
        """Rows of the character table, PAD and UNK included."""
        return len(self.chars) + 2

    def word_ids(self, words: Sequence[str]) -> Ids:
        """Row of each word [U]; UNK for a word without one."""
        ids = self._word_ids
        return np.fromiter((ids.get(word.lower(), UNK) for word in words), np.int64, len(words))

    def char_ids(self, words: Sequence[str]) -> Ids:
        """Rows of each word's characters, padded [U, L] with L the longest, at least 1 and at most MAX_WORD_CHARS."""
        ids = self._char_ids
        longest = min(max(map(len, words), default=1), MAX_WORD_CHARS)
        rows = np.zeros((len(words), max(longest, 1)), np.int64)
        for row, word in zip(rows, words, strict=True):
            cut = word[:MAX_WORD_CHARS]
            row[: len(cut)] = [ids.get(char, UNK) for char in cut]
        return rows


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
