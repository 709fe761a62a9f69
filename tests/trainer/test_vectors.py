"""Word vectors from text and from checkpoints."""

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import MakeModel

from nermodel.checkpoint import publish
from nertrainer.corpus import CorpusError
from nertrainer.vectors import read_vectors


@pytest.mark.parametrize("header", ["", "2 3\n"])
def test_glove_and_word2vec_text_are_read(tmp_path: Path, header: str) -> None:
    """Words come in lower case and in order, with or without word2vec's header line."""
    path = tmp_path / "vectors.txt"
    path.write_text(f"{header}The 1 2 3\nof 4 5 6.5\n")
    vectors = read_vectors(path)
    assert list(vectors) == ["the", "of"]
    np.testing.assert_array_equal(vectors["of"], np.array([4, 5, 6.5], np.float32))
    assert list(read_vectors(path, most=1)) == ["the"]


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
        ("", "no vectors"),
        ("the 1 2\nof 1\n", ":2: not a word and 2 numbers"),
        ("the 1 x\n", ":1: not a word and"),
        ("the 1 2\nof 1 nan\n", ":2: not a word and"),
        ("the 1 2\nof 1 1e39\n", ":2: not a word and"),
        ("hello\n", ":1: not a word and"),
    ],
)
def test_a_file_that_holds_no_vectors_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The error names the file and the line."""
    path = tmp_path / "vectors.txt"
    path.write_text(text)
    with pytest.raises(CorpusError, match=message):
        read_vectors(path)
