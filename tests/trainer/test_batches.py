"""Every sentence in exactly one batch."""

import random

from hypothesis import given
from hypothesis import strategies as st

from nertrainer.batches import bucketed, by_length

LENGTHS = st.lists(st.integers(1, 60), max_size=200)


@given(LENGTHS, st.integers(1, 20), st.integers(0, 100))
def test_an_epoch_holds_every_sentence_once(lengths: list[int], size: int, seed: int) -> None:
    """No sentence is lost or doubled, and no batch is larger than asked."""
    batches = bucketed(lengths, size, random.Random(seed))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= size for batch in batches)


def test_bucketing_spares_padding() -> None:
    """Sorted in pools, batches hold much less padding than in random order."""
    rng = random.Random(1)
    lengths = [rng.randint(1, 60) for _ in range(2000)]
    batches = bucketed(lengths, 16, rng)
    padded = sum(max(lengths[index] for index in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


@given(LENGTHS, st.integers(1, 200))
def test_batches_by_length_keep_the_budget(lengths: list[int], budget: int) -> None:
    """Longest x count stays within the budget, except for a sentence that alone exceeds it."""
    sentences = [["w"] * length for length in lengths]
    batches = list(by_length(sentences, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget
