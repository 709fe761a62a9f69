"""Words and characters as ids."""

import pytest

from nermodel.vocabulary import MAX_WORD_CHARS, PAD, UNK, Vocabulary, casing


def test_words_are_found_in_any_case_and_characters_only_as_written() -> None:
    """The word table is lower-cased, the char table is not."""
    vocabulary = Vocabulary.build([["Oslo", "is", "is"]], min_freq=1)
    assert vocabulary.word_ids(["OSLO", "oslo", "Oslo"]).tolist() == [vocabulary.word_ids(["oslo"])[0]] * 3
    assert vocabulary.char_ids(["Oo"])[0].tolist()[0] != vocabulary.char_ids(["oo"])[0].tolist()[0]


def test_rare_words_are_unknown_but_extra_ones_are_not() -> None:
    """`min_freq` keeps rare words out; words that have vectors come in anyway."""
    vocabulary = Vocabulary.build([["seen", "seen", "once"]], min_freq=2, extra=["Vector"])
    assert list(vocabulary.words) == ["seen", "vector"]
    assert vocabulary.word_ids(["once", "seen", "vector"]).tolist() == [UNK, 2, 3]


def test_char_ids_are_padded_and_capped() -> None:
    """A long word is read up to the cap, a short one is padded, an empty one is all padding."""
    vocabulary = Vocabulary.build([["ab"]], min_freq=1)
    rows = vocabulary.char_ids(["a" * 300_000, "b", ""])
    assert rows.shape == (3, MAX_WORD_CHARS)
    assert rows[1].tolist()[1:] == [PAD] * (MAX_WORD_CHARS - 1)
    assert not rows[2].any()


def test_a_double_word_is_refused() -> None:
    """Two rows for one word would leave one unreachable."""
    with pytest.raises(ValueError, match="twice"):
        Vocabulary(["a", "a"], "")


def test_casing_tells_shapes_apart() -> None:
    """Each shape of word has its own row."""
    assert [casing(word) for word in ["...", "1996", "A4", "oslo", "OSLO", "Oslo", "iPhone", ""]] == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        0,
    ]
