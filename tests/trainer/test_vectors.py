"""Word vectors from text and from checkpoints."""

import os
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import MakeModel, publish

from nertrainer.corpus import CorpusError
from nertrainer.vectors import Vectors, joined, nearest, read_vectors, reduced


@pytest.mark.parametrize("header", ["", "2 3\n"])
def test_glove_and_word2vec_text_are_read(tmp_path: Path, header: str) -> None:
    """Words come in lower case and in order, with or without word2vec's header line."""
    path = tmp_path / "vectors.txt"
    path.write_text(f"{header}The 1 2 3\nof 4 5 6.5\n")
    vectors = read_vectors(path)
    assert list(vectors) == ["the", "of"]
    np.testing.assert_array_equal(vectors["of"], np.array([4, 5, 6.5], np.float32))
    assert list(read_vectors(path, most=1)) == ["the"]


def test_the_word_in_lower_case_counts(tmp_path: Path) -> None:
    """Of one word in several cases the lower one gives the vector, else the first of them."""
    path = tmp_path / "vectors.txt"
    path.write_text("US 1 1\nus 2 2\nUs 3 3\nOslo 4 4\nOSLO 5 5\n")
    vectors = read_vectors(path)
    assert {word: vectors[word].tolist() for word in vectors} == {"us": [2, 2], "oslo": [4, 4]}
    assert list(read_vectors(path, most=1)) == ["us"]


def test_vectors_of_several_files_are_joined_end_to_end() -> None:
    """Every word of any file has a row, zeros where a file lacks it, and the files' scales are made alike."""
    one = Vectors(["a", "b"], np.array([[1, -1], [1, 1]], np.float32))
    two = Vectors(["b", "c"], np.array([[10], [-10]], np.float32))
    both = joined([one, two])
    assert {word: both[word].tolist() for word in both} == {"a": [1, -1, 0], "b": [1, 1, 1], "c": [0, 0, -1]}


def test_reduced_vectors_keep_their_distances() -> None:
    """Vectors that lie in a plane lose nothing but a common factor when they are reduced to two numbers."""
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 10))
    small = reduced(Vectors([str(row) for row in range(200)], plane.astype(np.float32)), 2).table
    before, after = (np.linalg.norm(table[:, None] - table[None], axis=2) for table in (plane, small))
    assert small.shape == (200, 2)
    np.testing.assert_allclose(after, before * (after.max() / before.max()), atol=1e-3 * after.max())


def test_the_nearest_word_is_found_by_angle() -> None:
    """Length does not count; every word gets one of the words that have rows."""
    table = np.array([[1, 0], [0, 1], [9, 1], [0.1, 0.2]], np.float32)
    assert nearest(Vectors("abcd", table), ["a", "b"], ["c", "d"]) == {"c": "a", "d": "b"}
    assert nearest(Vectors("abcd", table), ["a", "b"], []) == {}


def test_a_word_may_hold_spaces(tmp_path: Path) -> None:
    """The numbers are counted from the end of the line, as some words of GloVe's need."""
    path = tmp_path / "vectors.txt"
    path.write_text("the 1 2\n. . . 3 4\n")
    assert list(read_vectors(path)) == ["the", ". . ."]


def test_binary_vectors_are_refused(tmp_path: Path) -> None:
    """A file that is not text is refused in words about the file."""
    path = tmp_path / "vectors.bin"
    path.write_bytes(b"3 2\nthe \xff\xfe\x00")
    with pytest.raises(CorpusError, match="give vectors as UTF-8 text"):
        read_vectors(path)


def test_a_checkpoint_lends_its_word_table(make_model: MakeModel, tmp_path: Path) -> None:
    """The vectors of a checkpoint are the rows of its word table."""
    model = make_model()
    path = publish(tmp_path, model, [])
    vectors = read_vectors(path)
    assert list(read_vectors(path, most=3)) == list(vectors)[:3]
    assert list(vectors) == list(model.vocabulary.words)
    np.testing.assert_array_equal(vectors["oslo"], model.network.word.weight[model.vocabulary.word_ids(["oslo"])[0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no vectors; give"),
        ("the 1 2\nof 1\n", ":2: not a word and 2 numbers"),
        ("the 1 x\n", ":1: not a word and"),
        ("the 1 2\nof 1 nan\n", ":2: a number that is not finite, or too large"),
        ("the 1 2\nof 1 1e39\n", ":2: a number that is not finite, or too large"),
        ("the 1 2\nof 1 1e999\n", ":2: a number that is not finite, or too large"),
        ("hello\n", ":1: not a word and"),
    ],
)
def test_a_file_that_holds_no_vectors_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The error names the file and the line."""
    path = tmp_path / "vectors.txt"
    path.write_text(text)
    with pytest.raises(CorpusError, match=message):
        read_vectors(path)


def test_pipes_and_devices_are_no_vectors(tmp_path: Path) -> None:
    """They are not opened, as they may never end."""
    os.mkfifo(tmp_path / "vectors.txt")
    for path in (tmp_path / "vectors.txt", tmp_path, Path("/dev/zero")):
        with pytest.raises(CorpusError, match="not a regular file"):
            read_vectors(path)
