"""Annotated sentences, and the reading of column files in any CoNLL dress: columns, separator and scheme are found out.

One token a line, blank lines between sentences; `-DOCSTART-` lines and `#` comments are skipped. The tag column is the
last that holds tags; a first column that counts 1, 2, 3, ... is not the words.
"""

import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from nermodel.tags import Span
from nertrainer.schemes import repairs_of, scheme_of, spans_of

_TAG = re.compile(r"O|[BIESLU]-\S+")
_COMMENT = re.compile(r"#[^=]*\w = ")  # such as "# text = ..."


class CorpusError(ValueError):
    """A file is not a corpus; the message is one line and names the file, the line, the cause and the cure."""


@dataclass(frozen=True)
class Sentence:
    """Words and the entities over them."""

    words: tuple[str, ...]
    spans: tuple[Span, ...]
    unannotated: tuple[str, ...] = ()  # labels that nobody looked for here: where there is no span may be one of them


@dataclass(frozen=True)
class Corpus:
    """The sentences of a file, or of a folder's files one after another."""

    path: Path  # as it was given
    sentences: Sequence[Sentence]
    scheme: str  # as found: IO, IOB1, BIO, BIOES or BILOU; "spans" of JSON lines; with commas where files differ
    repairs: Sequence[str]  # "FILE:LINE: what was mended or left out", one for each place
    places: Sequence[str]  # "FILE:LINE" at which each sentence begins
    written: frozenset[str]  # labels as they stand in the file, before a label map
    form: str  # what was read where: "word 1, tag 4 of 4 columns"
    files: Sequence[Path]  # those that were read

    @property
    def name(self) -> str:
        """The path's, with its folder's, as many are called dev.txt: "wikigold/dev.txt"."""
        path = self.path.absolute()
        return f"{path.parent.name}/{path.name}"

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Entity types, sorted."""
        return tuple(annotated_labels(self.sentences))


_Repair = tuple[int, str]  # line number, what was mended


class _Row(NamedTuple):
    line: int
    columns: list[str]


def annotated_labels(sentences: Sequence[Sentence]) -> list[str]:
    """The labels that these sentences annotate, sorted."""
    return sorted({span.label for sentence in sentences for span in sentence.spans})


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; CorpusError where it is something else."""
    check_regular(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise CorpusError(f"{path}:{line}: not UTF-8 text; convert the file, or give another") from error
    if "\0" in text:
        raise CorpusError(f"{path}: holds NUL bytes, so it is not a text file; give columns or JSON lines")
    return text


def check_regular(path: Path) -> None:
    """CorpusError for a folder, a pipe or a device: they may never end, and training reads its files twice."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise CorpusError(f"{path}: not a regular file; give one, for a pipe the file that it is made of")


def check_label(label: str, name: str = "label") -> None:
    """ValueError, about `name`, for a label that could not be shown: of control characters or halves of a character."""
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in label):
        raise ValueError(
            f"{name} {label[:30]!r} holds a control character or half of a surrogate pair; give it without that"
        )


def parse_columns(path: Path, text: str, label_map: Mapping[str, str]) -> Corpus:
    """Read a file's text; `label_map` renames labels, to "" drops them. CorpusError says what is wrong and where."""
    rows, repairs = _rows(path, text.split("\n"))
    if not rows:
        raise CorpusError(f"{path}: holds no sentence; give a file with a token and its tag on each line")
    tag_columns = _tag_columns(path, rows)
    tag_column = tag_columns[-1]
    word_column = 1 if tag_column > 1 and _is_numbered(path, rows) else 0
    rows, left_out = _with_words(path, rows, word_column, tag_column)
    repairs += left_out
    _check_labels(path, rows, tag_column)
    tags = [[row.columns[tag_column] for row in sentence] for sentence in rows]
    spans = [spans_of(sentence) for sentence in tags]
    scheme = scheme_of(zip(tags, spans, strict=True))
    sentences = []
    for row, tag, span in zip(rows, tags, spans, strict=True):
        repairs += [
            (row[at].line, f"{tag[at]} where {scheme} has {meant}") for at, meant in repairs_of(tag, span, scheme)
        ]
        renamed = [found._replace(label=label_map.get(found.label, found.label)) for found in span]
        words = tuple(columns[word_column] for _, columns in row)
        sentences.append(Sentence(words, tuple(found for found in renamed if found.label)))
    also = f" (tags also in {', '.join(str(at + 1) for at in tag_columns[:-1])})" if tag_columns[1:] else ""
    return Corpus(
        path,
        sentences,
        scheme,
        repairs=[f"{path}:{line}: {repair}" for line, repair in sorted(repairs)],
        places=[f"{path}:{row[0].line}" for row in rows],
        written=frozenset(found.label for span in spans for found in span),
        form=f"word {word_column + 1}, tag {tag_column + 1} of {len(rows[0][0].columns)} columns{also}",
        files=[path],
    )


def _rows(path: Path, lines: Sequence[str]) -> tuple[list[list[_Row]], list[_Repair]]:
    """Sentences as rows of columns, all of one width, and by line what was mended to read them."""
    sentences: list[list[_Row]] = [[]]
    repairs: list[_Repair] = []
    first: _Row | None = None
    tabs_first = False
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip("\r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append([])
            continue
        tabs = "\t" in line.rstrip()
        columns = (
            [column.strip() for column in line.split("\t")]
            if tabs
            else [column for column in line.strip(" \t").split(" ") if column]
        )
        if _is_comment(line, columns):
            continue
        if first is None:
            first, tabs_first = _Row(number, columns), tabs
        _check_width(path, number, columns, first)
        if tabs != tabs_first:
            repairs.append((number, f"columns parted by {_name(tabs)}, by {_name(tabs_first)} in line {first.line}"))
        sentences[-1].append(_Row(number, columns))
    return [sentence for sentence in sentences if sentence], repairs


def _check_width(path: Path, number: int, columns: Sequence[str], first: _Row) -> None:
    width = len(first.columns)
    if width < 2:
        raise CorpusError(f"{path}:{number}: has 1 column; give a token and its tag on each line, tab or space between")
    if len(columns) != width:
        raise CorpusError(
            f"{path}:{number}: has {len(columns)} of the {width} columns that line {first.line} has; make them equal"
        )


def _name(tabs: bool) -> str:
    return "tabs" if tabs else "spaces"


def _is_comment(line: str, columns: Sequence[str]) -> bool:
    """Whether a line is a comment and not a token that begins with `#`."""
    if not line.startswith("#"):
        return False
    return bool(_COMMENT.match(line)) or ("\t" not in line and not any(map(_TAG.fullmatch, columns[1:])))


def _tag_columns(path: Path, sentences: Sequence[Sequence[_Row]]) -> list[int]:
    """The columns that hold tags in half of the rows or more; the last of them holds nothing else."""
    rows = list(chain.from_iterable(sentences))
    counts = [Counter(columns[at] for _, columns in rows) for at in range(len(rows[0].columns))]
    hits = [sum(count for cell, count in column.items() if _TAG.fullmatch(cell)) for column in counts]
    found = [at for at in range(1, len(hits)) if 2 * hits[at] >= len(rows)]
    if not found:
        if 2 * hits[0] >= len(rows):
            line, cells = next(row for row in rows if _TAG.fullmatch(row.columns[0]))
            raise CorpusError(
                f"{path}:{line}: the first column holds tags, here {cells[0][:30]!r}, and none after it; "
                "put the token first and its tag last"
            )
        line, cells = next(row for row in rows if not _TAG.fullmatch(row.columns[-1]))
        raise CorpusError(
            f"{path}:{line}: no column after the first holds tags, the last has {cells[-1][:30]!r} here; "
            "expected O and B-X, I-X in capitals on each line"
        )
    if hits[found[-1]] < len(rows):
        line, tag = next((line, cells[found[-1]]) for line, cells in rows if not _TAG.fullmatch(cells[found[-1]]))
        raise CorpusError(f"{path}:{line}: unknown tag {tag[:30]!r}; expected O, or B-, I-, E-, S-, L-, U- and a label")
    return found


def _check_labels(path: Path, sentences: Sequence[Sequence[_Row]], tag_column: int) -> None:
    """CorpusError at the first tag whose label cannot be shown."""
    lines: dict[str, int] = {}
    for line, columns in chain.from_iterable(sentences):
        lines.setdefault(columns[tag_column], line)
    for tag, line in lines.items():
        try:
            check_label(tag[2:])
        except ValueError as error:
            raise CorpusError(f"{path}:{line}: {error}") from error


def _is_numbered(path: Path, sentences: Sequence[Sequence[_Row]]) -> bool:
    """Whether the first column counts the words of each sentence; CorpusError if it does so in most."""
    odd = [
        sentence
        for sentence in sentences
        if [columns[0] for _, columns in sentence] != [str(number) for number in range(1, len(sentence) + 1)]
    ]
    if odd and 2 * len(odd) < len(sentences):
        raise CorpusError(
            f"{path}:{odd[0][0].line}: the first column counts the words 1, 2, 3, ... elsewhere but not here; mend it"
        )
    return not odd


def _with_words(
    path: Path, sentences: Sequence[Sequence[_Row]], word_column: int, tag_column: int
) -> tuple[list[list[_Row]], list[_Repair]]:
    """The sentences without the rows that hold no word, and these by line; CorpusError where that cannot be right."""
    rows = list(chain.from_iterable(sentences))
    spaced = [row.line for row in rows if " " in row.columns[word_column]]
    if 2 * len(spaced) > len(rows):
        raise CorpusError(f"{path}:{spaced[0]}: parted by both a space and a tab; use one of them throughout")
    empty = [row for row in rows if not row.columns[word_column].strip()]
    for line, columns in empty:
        if columns[tag_column] != "O":
            raise CorpusError(f"{path}:{line}: {columns[tag_column]} without a token; give the token")
    kept = [[row for row in sentence if row.columns[word_column].strip()] for sentence in sentences]
    if len(empty) == len(rows):
        raise CorpusError(f"{path}: holds no token; give a file with a token and its tag on each line")
    return [sentence for sentence in kept if sentence], [(line, "an empty token left out") for line, _ in empty]
