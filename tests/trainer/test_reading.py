"""Which reader a file gets, and folders of files."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nermodel.tags import Span, spans_to_tags, tags_to_spans
from nertrainer.corpus import CorpusError
from nertrainer.reading import read_corpus

COLUMNS = "Oslo B-LOC\n"
JSON = '{"text": "Oslo", "spans": [{"start": 0, "end": 4, "label": "LOC"}]}\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.txt", "a"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n", "\r\n"])
def test_json_lines_are_known_by_their_content(tmp_path: Path, name: str, start: str) -> None:
    """A file of objects is JSON lines whatever it is called, with a byte order mark and Windows' line ends too."""
    (tmp_path / name).write_text(start + JSON, encoding="utf-8", newline="")
    corpus = read_corpus(tmp_path / name)
    assert (corpus.scheme, corpus.sentences[0].spans) == ("spans", (Span(0, 1, "LOC"),))


def test_a_brace_may_be_a_word(tmp_path: Path) -> None:
    """Columns that begin with a brace are columns, but not in a file named .jsonl."""
    path = tmp_path / "a.txt"
    path.write_text("{ O\nOslo B-LOC\n")
    assert read_corpus(path).sentences[0].words == ("{", "Oslo")
    with pytest.raises(CorpusError, match=r"a\.jsonl:1: not JSON"):
        read_corpus(path.rename(tmp_path / "a.jsonl"))


ROWS = ["w O", "w\tO", "v B-X", "w I-X", "w\tE-X", "w S-Y", "w U-Y", "\tO", "\u00a0 O", "", "", "#", "w", "w n O", "\0"]
SPANS = st.lists(st.tuples(st.integers(-1, 12), st.integers(0, 12), st.sampled_from(["X", "Y"])), max_size=3)
RECORDS = st.builds(
    lambda text, spans: json.dumps({"text": text, "label": spans}), st.text("ab. \n", max_size=10), SPANS
)


@given(st.lists(st.sampled_from(ROWS), max_size=8) | st.lists(RECORDS, max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_any_text_is_a_sound_corpus_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str
) -> None:
    """Whatever a file holds, its sentences have words, and spans that can be written as tags, or it is no corpus."""
    path = tmp_path_factory.mktemp("corpus") / "file"
    path.write_text(end.join(lines), encoding="utf-8", newline="")
    try:
        corpus = read_corpus(path)
    except CorpusError:
        return
    assert len(corpus.places) == len(corpus.sentences) > 0
    assert all(said.startswith(f"{path}:") for said in (*corpus.places, *corpus.repairs))
    for sentence in corpus.sentences:
        assert sentence.words
        assert all(word.strip() for word in sentence.words)
        assert tags_to_spans(spans_to_tags(sentence.spans, len(sentence.words), "BIOES")) == list(sentence.spans)


def test_a_folder_is_one_corpus(tmp_path: Path) -> None:
    """Its files are read in the order of their names, each in its own form, and repairs name the file."""
    (tmp_path / "b.txt").write_text("Rome I-LOC\n\nMary I-PER B-PER\n".replace(" B", "\nOkafor B"))
    (tmp_path / "a.jsonl").write_text(JSON)
    (tmp_path / "c.iob2").write_text("Bonn B-LOC\nJill I-PER\n\nParis B-LOC\n")
    (tmp_path / "README.md").write_text("not a corpus")
    (tmp_path / ".hidden.txt").write_text("not a corpus")
    (tmp_path / "old.txt").mkdir()
    corpus = read_corpus(tmp_path, {"LOC": "place"})
    assert [" ".join(sentence.words) for sentence in corpus.sentences] == [
        "Oslo", "Rome", "Mary Okafor", "Bonn Jill", "Paris",
    ]  # fmt: skip
    assert corpus.labels == ("PER", "place")
    assert corpus.written == {"PER", "LOC"}
    assert corpus.scheme == "spans, IOB1, BIO"
    assert corpus.repairs == [f"{tmp_path / 'c.iob2'}:2: I-PER where BIO has B-PER"]
    assert corpus.places == [
        f"{tmp_path / 'a.jsonl'}:1",
        *(f"{tmp_path / 'b.txt'}:{line}" for line in (1, 3)),
        *(f"{tmp_path / 'c.iob2'}:{line}" for line in (1, 4)),
    ]
    assert (corpus.path, corpus.files) == (tmp_path, [tmp_path / name for name in ("a.jsonl", "b.txt", "c.iob2")])


def test_the_files_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    """However the file system lists them."""
    for number in (5, 2, 7, 0, 9, 4, 1, 8, 3, 6):
        (tmp_path / f"{number}.tsv").write_text(f"w{number}\tB-X\n")
    assert [sentence.words for sentence in read_corpus(tmp_path).sentences] == [(f"w{at}",) for at in range(10)]


def test_a_folder_without_corpora_is_refused(tmp_path: Path) -> None:
    """The error says which files are looked for."""
    (tmp_path / "README.md").write_text("Oslo B-LOC\n")
    with pytest.raises(CorpusError, match=r"a folder without \.conll, .* files"):
        read_corpus(tmp_path)


def test_a_bad_file_of_a_folder_is_named(tmp_path: Path) -> None:
    """One file that is no corpus refuses the folder, by its own name."""
    (tmp_path / "a.txt").write_text(COLUMNS)
    (tmp_path / "b.txt").write_text("word\n")
    with pytest.raises(CorpusError, match=r"b\.txt:1: has 1 column"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(("name", "text"), [("a.json", "[]"), ("a.jsonl", " [1]"), ("a", f"\n[\n {JSON}]")])
def test_a_json_array_is_refused_with_its_cure(tmp_path: Path, name: str, text: str) -> None:
    """What is one array and not one object a line is said to be that, not read as columns."""
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match="one JSON array; give one object a line"):
        read_corpus(tmp_path / name)


def test_a_bracket_may_be_a_word(tmp_path: Path) -> None:
    """Columns that begin with brackets are columns."""
    (tmp_path / "a.txt").write_text("[ [ O\nOslo Oslo B-LOC\n")
    assert read_corpus(tmp_path / "a.txt").sentences[0].words == ("[", "Oslo")


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    """They are not opened, as they may never end: given as they are, and in a folder."""
    pipe = tmp_path / "a.txt"
    os.mkfifo(pipe)
    for given_path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(CorpusError, match="not a regular file"):
            read_corpus(given_path)
