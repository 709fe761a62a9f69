"""The bounded table of word types."""

import random

import pytest

from nermodel.word_types import LONGEST_KEPT, WordTypes


def test_a_word_keeps_its_slot() -> None:
    """A word is new once, also where it stands twice, and found in the same place later."""
    types = WordTypes(8)
    slots, new, places = types.slots(["a", "b", "a"])
    assert new == ["a", "b"]
    assert list(slots) == [places[0], places[1], places[0]]
    again, new, _ = types.slots(["b", "c"])
    assert again[0] == places[1]
    assert new == ["c"]


def test_words_that_were_not_used_for_longest_leave() -> None:
    """A full table makes room without those of the batch at hand."""
    types = WordTypes(4)
    for words in (["a", "b"], ["c", "d"], ["a"]):
        types.slots(words)
    assert types.slots(["e", "a", "c"])[1] == ["e"]  # b went
    assert types.slots(["b"])[1] == ["b"]


def test_long_words_leave_with_their_batch() -> None:
    """A word that could fill the memory is new in every batch."""
    types = WordTypes(4)
    long = "x" * (LONGEST_KEPT + 1)
    for _ in range(3):
        assert types.slots([long, "a", long])[1][0] == long


def test_forgotten_words_are_new_again() -> None:
    """Words that could not be encoded are not found later; the others are."""
    types = WordTypes(4)
    types.slots(["a"])
    _, new, _ = types.slots(["a", "b", "x" * 100])
    types.forget(new)
    assert types.slots(["a", "b"])[1] == ["b"]


@pytest.mark.parametrize("seed", range(5))
def test_slots_tell_words_apart(seed: int) -> None:
    """Whatever the order of batches, the words of a batch have a slot each, and a slot holds the word it was given."""
    rng = random.Random(seed)
    types = WordTypes(20)
    held: dict[int, str] = {}
    for _ in range(300):
        words = [f"word{rng.randrange(60)}" * rng.choice((1, 1, 1, 20)) for _ in range(rng.randint(1, 20))]
        slots, new, places = types.slots(words)
        held |= dict(zip(places, new, strict=True))
        assert [held[slot] for slot in slots] == words
