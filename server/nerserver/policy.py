"""Which sentences go together now: a pure function, and the shares that order those who wait.

No clock, no lock, no event loop: the caller says what time it is and holds the lines.
"""

from bisect import bisect, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Generic, TypeVar

POOL = 4  # how many full batches of those who wait are looked at for similar lengths
BATCH_COST = 128  # what a batch costs by itself, in tokens
QUANTUM = 512  # tokens of a source's turn; fewer share more finely, and a newcomer waits for less
LITTLE, STRETCH = 512, 4  # a batch without padding has LITTLE tokens, or STRETCH times those of its first's request


@dataclass(slots=True, eq=False)
class Item:
    """One sentence in a line."""

    tokens: int  # at least 1
    request_tokens: int  # of all sentences of its request
    turn: int  # by Shares
    due: float  # in the clock's seconds, as the deadline: who goes first within a turn
    deadline: float  # inf is none
    waiting: bool = True  # False, for good, once it was taken or its caller left: the line forgets it


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True)
class Budget:
    """What one batch may hold; a sentence beyond it goes alone."""

    tokens: int
    sentences: int
    padded: bool = True  # whether each sentence counts as many tokens as the longest

    def allows(self, tokens: int, longest: int, count: int) -> bool:
        """Whether `count` sentences of so many tokens, at most `longest` each, fit."""
        return count <= 1 or (count <= self.sentences and (longest * count if self.padded else tokens) <= self.tokens)


class Line(Generic[ItemT]):
    """Those who wait, by turn, then by when they are due, then by arrival."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, float, int, ItemT]] = []
        self._arrivals = 0
        self._left = 0

    def add(self, item: ItemT) -> None:
        """Let an item wait for its turn."""
        self._arrivals += 1
        insort(self._entries, (item.turn, item.due, self._arrivals, item))

    def head(self, count: int) -> list[ItemT]:
        """The first `count` that wait still; whoever stands before them and does not is forgotten."""
        kept: list[tuple[int, float, int, ItemT]] = []
        looked_at = 0
        for entry in self._entries:
            looked_at += 1
            if entry[3].waiting:
                kept.append(entry)
                if len(kept) == count:
                    break
        self._entries[:looked_at] = kept
        return [entry[3] for entry in kept]

    def ahead_of(self, turn: int, due: float) -> float:
        """The part of the line that stands ahead of one who comes now, from 0 to 1."""
        return bisect(self._entries, (turn, due, self._arrivals + 1)) / max(len(self._entries), 1)

    def left(self, count: int) -> None:
        """Say that so many no longer wait, wherever they stand, so that they do not pile up."""
        self._left += count
        if 2 * self._left > len(self._entries):
            self._entries = [entry for entry in self._entries if entry[3].waiting]
            self._left = 0


class Shares:
    """Turns by which sources share the engine equally, in tokens (start-time fair queueing, Goyal et al. 1996).

    A turn spans `quantum` tokens of each source. Time is virtual: it moves on with the work done, so that a newcomer
    starts level with the others.
    """

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._now = 0.0  # tokens that each source has had
        self._ends: dict[Hashable, float] = {}  # where the tokens that a source asked for end

    def turn(self, source: Hashable, tokens: int) -> int:
        """The turn of a source's next sentence."""
        turn = self.next_turn(source)
        self._ends[source] = self._start(source) + tokens
        return turn

    def next_turn(self, source: Hashable) -> int:
        """The turn that a source's next sentence would have."""
        return int(self._start(source) // self._quantum)

    def advance(self, tokens: int, first_turn: int | None) -> None:
        """Say that so many tokens were taken, and the first turn that still waits (None: nobody does)."""
        if first_turn is None:
            self._ends.clear()
            return
        self._now = max(self._now + tokens / max(len(self._ends), 1), float(first_turn * self._quantum))
        self._ends = {source: end for source, end in self._ends.items() if end > self._now}

    def _start(self, source: Hashable) -> float:
        return max(self._now, self._ends.get(source, 0.0))


def compose(
    lead: Sequence[ItemT], fill: Sequence[ItemT], budget: Budget, now: float
) -> tuple[list[ItemT], list[ItemT]]:
    """The next batch and, to be dropped, whoever's deadline has passed; both lines are given first come first.

    The first of `lead` always goes: where batches are padded with those of `lead` whose lengths waste least beside it,
    else with those right behind it. `fill` takes what room is left without making the batch any wider. Only if nobody
    is left is the batch empty.
    """
    expired = [item for item in (*lead, *fill) if item.deadline <= now]
    lead = [item for item in lead if item.deadline > now]
    fill = [item for item in fill if item.deadline > now]
    if not lead:
        lead, fill = fill, []
    if not lead:
        return [], expired
    batch = _around_first(lead, budget) if budget.padded else _from_first(lead, budget)
    longest = max(item.tokens for item in batch)
    tokens = sum(item.tokens for item in batch)
    for item in fill:
        if item.tokens <= longest and budget.allows(tokens + item.tokens, longest, len(batch) + 1):
            batch.append(item)
            tokens += item.tokens
    return batch, expired


def _from_first(items: Sequence[ItemT], budget: Budget) -> list[ItemT]:
    """The first item and those right behind it that fit, and do not keep a little request waiting."""
    budget = replace(budget, tokens=min(budget.tokens, max(LITTLE, STRETCH * items[0].request_tokens)))
    tokens = 0
    for count, item in enumerate(items):
        tokens += item.tokens
        if not budget.allows(tokens, item.tokens, count + 1):
            return list(items[:count])
    return list(items)


def _around_first(items: list[ItemT], budget: Budget) -> list[ItemT]:
    """The first item and the neighbours by length that make the best use of a padded batch."""
    if budget.allows(0, max(item.tokens for item in items), len(items)):
        return items
    rows = sorted(range(len(items)), key=lambda row: items[row].tokens)  # stable: equal lengths stay in order
    lengths = [items[row].tokens for row in rows]
    sums = [0, *accumulate(lengths)]
    first = rows.index(0)
    best, bounds = -1.0, (first, first + 1)
    for right in range(first, len(rows)):
        count = max(1, min(right + 1, budget.sentences, budget.tokens // lengths[right]))
        left = right + 1 - count
        if left > first:
            break
        use = (sums[right + 1] - sums[left]) / (lengths[right] * count + BATCH_COST)
        if use > best:
            best, bounds = use, (left, right + 1)
    return [items[row] for row in rows[slice(*bounds)]]
