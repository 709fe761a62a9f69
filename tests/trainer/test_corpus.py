"""Column files in every dress, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nermodel.tags import SCHEMES, Scheme, Span, spans_to_tags
from nertrainer.corpus import CorpusError, read_columns


def read(folder: Path, text: str, **labels: str) -> tuple[list[tuple[str, list[Span]]], str, int]:
    """Sentences as (words joined, spans), the scheme found and the number of repairs."""
    path = folder / "file.txt"
    path.write_text(text, encoding="utf-8")
    corpus = read_columns(path, labels)
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


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.sampled_from("XY")), min_size=1, max_size=6),
    st.sampled_from(SCHEMES),
)
def test_what_spans_write_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int, str]], scheme: Scheme
) -> None:
    """Spans written in a scheme and read from a file come back."""
    at, spans = 0, []
    for length, gap, label in parts:
        spans.append(Span(at, at + length, label))
        at += length + gap
    text = lines(" ".join(spans_to_tags(spans, at, scheme)))
    ((_, found),), _, repairs = read(tmp_path_factory.mktemp("corpus"), text)
    assert (found, repairs) == (spans, 0)


def test_a_broken_scheme_is_mended_and_counted_with_its_line(tmp_path: Path) -> None:
    """An I tag that continues nothing begins an entity in BIO, and the repair names file and line."""
    path = tmp_path / "file.txt"
    path.write_text(lines("B-X O B-X B-Y") + lines("O I-X"), encoding="utf-8")
    corpus = read_columns(path)
    assert corpus.sentences[1].spans == (Span(1, 2, "X"),)
    assert corpus.repairs == [f"{path}:7: I-X begins an entity"]


@pytest.mark.parametrize(
    "text",
    [
        "-DOCSTART- -X- O O\n\nMary NNP I-NP B-PER\nleft VBD I-VP O\n\n",  # CoNLL-2003
        "Mary\tB-PER\nleft\tO\n\t\n\t\n",  # blank lines that hold a tab
        "# sent_id = 1\n# text = Mary left\n1\tMary\tB-PER\t-\t-\n2\tleft\tO\t-\t-\n",  # Universal NER
        "\ufeffMary B-PER\r\nleft O\r\n",
        "\n\n\nMary B-PER\nleft O",
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
    """A label map renames labels, and drops those it maps to nothing."""
    sentences, _, _ = read(tmp_path, lines("B-person O B-product"), person="PER", product="")
    assert sentences[0][1] == [Span(0, 1, "PER")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no sentence"),
        (b"Mary\nleft\n", ":1: has 1 column"),
        (b"Mary B-PER\nleft\n", ":2: has 1 of the 2 columns"),
        (b"Mary B-PER\nleft B\n", ":2: unknown tag 'B'"),
        (b"Mary X\nleft Y\n", "no column holds tags"),
        (b"Mary B-PER\nl\xff\n", ":2: not UTF-8"),
        (b"\x00\x01\x02", "NUL bytes"),
    ],
)
def test_what_is_not_a_corpus_is_refused_by_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    """The error is one line that names the file, the line, and what is wrong."""
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        read_columns(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
