"""Sentences to batches of like length, so that little is padding."""

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

POOL = 50  # batches
T = TypeVar("T")


def bucketed(lengths: Sequence[int], size: int, rng: random.Random) -> list[list[int]]:
    """Indices of one epoch, each once, in shuffled batches of `size`, sorted by length in pools of POOL batches."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), POOL * size):
        near = sorted(order[start : start + POOL * size], key=lengths.__getitem__)
        batches += [near[at : at + size] for at in range(0, len(near), size)]
    rng.shuffle(batches)
    return batches


def by_length(sentences: Sequence[Sequence[T]], max_tokens: int) -> Iterator[list[int]]:
    """Indices in batches by length, longest x count within `max_tokens` (one sentence may exceed it alone)."""
    batch: list[int] = []
    for index in sorted(range(len(sentences)), key=lambda index: len(sentences[index])):
        if batch and len(sentences[index]) * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
