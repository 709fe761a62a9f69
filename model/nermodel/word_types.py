"""Which word types a bounded table of encoded words holds, and where."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

LONGEST_KEPT = 64  # characters: a longer word leaves with its batch, so that the table's words cannot fill the memory


class WordTypes:
    """Slots of words, as written; where none is free, the words that were not used for longest leave theirs."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._slots: dict[str, int] = {}
        self._words: list[str | None] = [None] * capacity  # by slot
        self._free = list(range(capacity))
        self._last_used = np.zeros(capacity, np.int64)  # the number of the batch, by slot
        self._batch = 0
        self._passing: list[str] = []  # words that leave with the batch

    def slots(self, words: Sequence[str]) -> tuple[npt.NDArray[np.int32], list[str], list[int]]:
        """The slot of each word of a batch [N], and the words that are new to the table with their slots.

        A batch has at most as many distinct words as there are slots.
        """
        self._batch += 1
        self._drop(self._passing)
        self._passing = []
        slots = list(map(self._slots.get, words))
        new: dict[str, None] = {}
        if None in slots:
            self._last_used[[slot for slot in slots if slot is not None]] = self._batch
            new = dict.fromkeys(word for word, slot in zip(words, slots, strict=True) if slot is None)
            self._make_room(len(new))
            for word in new:
                slot = self._slots[word] = self._free.pop()
                self._words[slot] = word
            slots = list(map(self._slots.get, words))
            self._passing = [word for word in new if len(word) > LONGEST_KEPT]
        found = np.array(slots, np.int32)
        self._last_used[found] = self._batch
        return found, list(new), [self._slots[word] for word in new]

    def forget(self, words: Sequence[str]) -> None:
        """Take words out, such as those that could not be encoded."""
        self._drop(words)
        self._passing = []

    def _make_room(self, count: int) -> None:
        """Have so many slots free, without those of this batch."""
        if count <= len(self._free):
            return
        leaving = max(count - len(self._free), self.capacity // 8)  # some more, so that this is rare
        others = [slot for slot in self._slots.values() if self._last_used[slot] < self._batch]
        others.sort(key=self._last_used.__getitem__)
        self._drop([word for slot in others[:leaving] if (word := self._words[slot]) is not None])

    def _drop(self, words: Iterable[str]) -> None:
        for word in words:
            slot = self._slots.pop(word)
            self._words[slot] = None
            self._free.append(slot)
