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


def test_digits_are_folded_where_the_word_has_no_row_of_its_own() -> None:
    """Dates and scores share a row by their shape; a number that has a vector keeps its own."""
    vocabulary = Vocabulary.build([["1996-08-22", "1997-01-01", "1996"]], min_freq=2, extra=["1996"])
    assert list(vocabulary.words) == ["0000-00-00", "1996"]
    assert vocabulary.word_ids(["2026-11-22", "1996", "1997"]).tolist() == [2, 3, UNK]


def test_a_word_may_share_the_row_of_another() -> None:
    """Rare words can lean on a near one; they need no row, and a word that was seen keeps its own."""
    vocabulary = Vocabulary.build([["Oslo"]], 1, ["lima", "near"], {"arequipa": "lima", "oslo": "lima"})
    assert list(vocabulary.words) == ["oslo", "lima", "near", "arequipa"]
    assert vocabulary.word_ids(["Oslo", "Lima", "near", "Arequipa", "far"]).tolist() == [2, 3, 4, 3, UNK]
    assert vocabulary.word_rows == 5


@pytest.mark.parametrize("row", [0, 1, 3])
def test_a_shared_row_must_be_a_word_s(row: int) -> None:
    """The rows of PAD and UNK, and those beyond the words, cannot be shared."""
    with pytest.raises(ValueError, match="shares a row"):
        Vocabulary(["a", "b"], "", [row])


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
