"""Column files in every dress, and what is refused."""

from pathlib import Path

import pytest

from nermodel.tags import Span
from nertrainer.corpus import CorpusError
from nertrainer.reading import read_corpus


def read(folder: Path, text: str, **labels: str) -> tuple[list[tuple[str, list[Span]]], str, int]:
    """Sentences as (words joined, spans), the scheme found and the number of repairs."""
    path = folder / "file.txt"
    path.write_text(text, encoding="utf-8")
    corpus = read_corpus(path, labels)
    sentences = [(" ".join(sentence.words), list(sentence.spans)) for sentence in corpus.sentences]
    return sentences, corpus.scheme, len(corpus.repairs)


def lines(tags: str) -> str:
    """A sentence that has a word for each of these tags."""
    return "".join(f"w{at} {tag}\n" for at, tag in enumerate(tags.split())) + "\n"


@pytest.mark.parametrize(
    ("tags", "scheme", "spans"),
    [
        ("I-X I-X O I-Y", "IO", [(0, 2, "X"), (3, 4, "Y")]),
        ("I-X B-X O I-Y I-X", "IOB1", [(0, 1, "X"), (1, 2, "X"), (3, 4, "Y"), (4, 5, "X")]),
        ("B-X I-X B-X O B-Y", "BIO", [(0, 2, "X"), (2, 3, "X"), (4, 5, "Y")]),
        ("B-X E-X S-X O B-Y I-Y E-Y", "BIOES", [(0, 2, "X"), (2, 3, "X"), (4, 7, "Y")]),
        ("B-X L-X U-X O B-Y I-Y L-Y", "BILOU", [(0, 2, "X"), (2, 3, "X"), (4, 7, "Y")]),
        ("O O", "BIO", []),
    ],
)
def test_every_scheme_is_found_and_read(
    tmp_path: Path, tags: str, scheme: str, spans: list[tuple[int, int, str]]
) -> None:
    """The scheme is told from the tags alone, and the spans are what it means by them."""
    ((_, found),), name, repairs = read(tmp_path, lines(tags))
    assert (name, found, repairs) == (scheme, [Span(*span) for span in spans], 0)


def test_a_broken_scheme_is_mended_and_counted_with_its_line(tmp_path: Path) -> None:
    """A tag that the scheme does not have there is read as it has, and the repair names file, line and both tags."""
    path = tmp_path / "file.txt"
    path.write_text(lines("B-X O B-X B-Y") + lines("O I-X"), encoding="utf-8")
    corpus = read_corpus(path)
    assert corpus.sentences[1].spans == (Span(1, 2, "X"),)
    assert corpus.repairs == [f"{path}:7: I-X where BIO has B-X"]


def test_an_end_that_is_missing_is_counted_too(tmp_path: Path) -> None:
    """An entity that BIOES does not close is mended, as is one in IOB1 that begins with B for no reason."""
    path = tmp_path / "file.txt"
    path.write_text(lines("B-X E-X S-X O B-X I-X"), encoding="utf-8")
    assert read_corpus(path).repairs == [f"{path}:6: I-X where BIOES has E-X"]
    path.write_text(lines("I-X B-X O B-X O I-X"), encoding="utf-8")
    assert read_corpus(path).repairs == [f"{path}:4: B-X where IOB1 has I-X"]


def test_places_are_the_lines_where_sentences_begin(tmp_path: Path) -> None:
    """Every sentence knows its file and first line, past comments and document marks."""
    path = tmp_path / "file.txt"
    path.write_text("-DOCSTART- O\n\n# id = 1\nMary B-PER\nleft O\n\n\nOslo B-LOC\n")
    assert read_corpus(path).places == [f"{path}:4", f"{path}:8"]


@pytest.mark.parametrize(
    "text",
    [
        "-DOCSTART- -X- O O\n\nMary NNP I-NP B-PER\nleft VBD I-VP O\n\n",  # CoNLL-2003
        "Mary\tB-PER\nleft\tO\n\t\n\t\n",  # blank lines that hold a tab
        "# sent_id = 1\n# text = Mary left\n1\tMary\tB-PER\t-\t-\n2\tleft\tO\t-\t-\n",  # Universal NER
        "\ufeffMary B-PER\r\nleft O\r\n",
        "\n\n\nMary B-PER\nleft O",
        "Mary  B-PER\n left   O \n",
        "# text = vitamin O\nMary B-PER\n#text = a\tO\nleft O\n",
        "Mary\tB-PER\t\nleft\tO\t\n",  # an empty last column
        "Mary\tB-PER\nleft O\n",
        "Mary B-PER\t\nleft O \t\n",
    ],
)
def test_dresses_of_column_files(tmp_path: Path, text: str) -> None:
    """Columns, separators, comments, document marks, line ends and a byte order mark do not matter."""
    assert read(tmp_path, text)[0] == [("Mary left", [Span(0, 1, "PER")])]


def test_a_number_sign_may_be_a_word(tmp_path: Path) -> None:
    """`#` with a tag is a token, not a comment."""
    assert read(tmp_path, "#\tO\nMary\tB-PER\n")[0][0][0] == "# Mary"
    assert read(tmp_path, "# O\nMary B-PER\n")[0][0][0] == "# Mary"


def test_labels_are_renamed_and_dropped(tmp_path: Path) -> None:
    """A label map renames labels, and drops those it maps to nothing; the corpus remembers what was written."""
    sentences, _, _ = read(tmp_path, lines("B-person O B-product"), person="PER", product="")
    assert sentences[0][1] == [Span(0, 1, "PER")]
    assert read_corpus(tmp_path / "file.txt", {"person": "PER"}).written == {"person", "product"}


def test_separators_that_differ_are_counted(tmp_path: Path) -> None:
    """A line parted otherwise than the first, but into as many columns, is read and named."""
    path = tmp_path / "file.txt"
    path.write_text("Mary\tB-PER\nthen\tO\nJill\tI-PER\nleft O\nOslo\tB-LOC\n")
    corpus = read_corpus(path)
    assert corpus.sentences[0].words == ("Mary", "then", "Jill", "left", "Oslo")
    assert corpus.repairs == [  # in the order of the lines
        f"{path}:3: I-PER where BIO has B-PER",
        f"{path}:4: columns parted by spaces, by tabs in line 1",
    ]


def test_an_empty_token_is_left_out_and_counted(tmp_path: Path) -> None:
    """A tag O without a token, as published corpora have them, teaches nothing."""
    assert read(tmp_path, "Mary\tB-PER\n\tO\n \tO\n\n\tO\n\nleft\tO\n") == (
        [("Mary", [Span(0, 1, "PER")]), ("left", [])],
        "BIO",
        3,
    )


def test_a_word_may_hold_an_odd_space(tmp_path: Path) -> None:
    """Only blanks and tabs part columns, not every white space of Unicode."""
    assert read(tmp_path, "10\u00a0000 O\nMary B-PER\n")[0][0][0] == "10\u00a0000 Mary"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Mary B-PER\n", "word 1, tag 2 of 2 columns"),
        ("1\tMary\tB-PER\t-\n2\tleft\tO\t-\n", "word 2, tag 3 of 4 columns"),
        ("Mary NNP I-NP B-PER\nleft VBD I-VP O\n", "word 1, tag 4 of 4 columns (tags also in 3)"),
    ],
)
def test_the_columns_that_were_read_are_named(tmp_path: Path, text: str, form: str) -> None:
    """What a file's columns were taken for is said, and whether others could have been meant."""
    path = tmp_path / "file.txt"
    path.write_text(text)
    assert read_corpus(path).form == form


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no sentence"),
        (b"Mary\nleft\n", ":1: has 1 column"),
        (b"Mary B-PER\nleft\n", ":2: has 1 of the 2 columns"),
        (b"Mary B-PER\nleft B\n", ":2: unknown tag 'B'"),
        (b"Mary X\nleft Y\n", ":1: no column after the first holds tags, the last has 'X' here"),
        (b"left o\nMary b-per\n", ":1: no column after the first holds tags, the last has 'o' here; expected"),
        (b"O\tleft\nB-PER\tMary\n", ":1: the first column holds tags, here 'O', and none after it"),
        (b"Mary B-P\x1b[31m\n", ":1: label 'P\\x1b[31m' holds a control character"),
        (b"Mary B-PER\nOslo B-L\xc2\x9bC\n", ":2: label 'L\\x9bC' holds a control character"),
        (b"Mary I-NP PER\nleft I-VP O\nthen I-VP O\n", ":1: unknown tag 'PER'"),  # not the chunks instead
        (b"Mary\tB-PER\nhas left O\n", ":2: has 3 of the 2 columns that line 1 has"),
        (b"Mary NNP\tB-PER\nleft VBD\tO\n", ":1: parted by both a space and a tab"),
        (b"\tB-PER\nleft\tO\n", ":1: B-PER without a token"),
        (b"\tO\n\tO\n", "holds no token"),
        (b"#\tX-PER\n", "no column after the first holds tags"),
        (
            b"1\tMary\tB-PER\n2\tleft\tO\n\n1\tHe\tO\n\n1-2\tdon't\tO\n1\tdo\tO\n2\tn't\tO\n",
            ":6: the first column counts the words",
        ),
        (b"Mary B-PER\nl\xff\n", ":2: not UTF-8"),
        (b"\x00\x01\x02", "NUL bytes"),
    ],
)
def test_what_is_not_a_corpus_is_refused_by_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    """The error is one line that names the file, the line, and what is wrong."""
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        read_corpus(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
