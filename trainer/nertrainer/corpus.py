"""Annotated sentences from column files in any CoNLL dress: columns, separator and tagging scheme are found out.

One token a line, blank lines between sentences; `-DOCSTART-` lines and `#` comments are skipped. The tag column is the
last that holds tags; a first column that counts 1, 2, 3, ... is not the words.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from nermodel.tags import Span

_TAG = re.compile(r"O|[BIESLU]-\S+")
_Row = tuple[int, list[str]]  # line number, columns


class CorpusError(ValueError):
    """A file is not a corpus; the message is one line and names the file, the line, the cause and the cure."""


@dataclass(frozen=True)
class Sentence:
    """Words and the entities over them."""

    words: tuple[str, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Corpus:
    """The sentences of one file."""

    path: Path
    sentences: Sequence[Sentence]
    scheme: str  # as found: IO, IOB1, BIO, BIOES or BILOU
    repairs: Sequence[str]  # "FILE:LINE: what was mended", one for each tag that broke the scheme

    @property
    def labels(self) -> tuple[str, ...]:
        """Entity types, sorted."""
        return tuple(sorted({span.label for sentence in self.sentences for span in sentence.spans}))


def read_columns(path: Path, label_map: Mapping[str, str] | None = None) -> Corpus:
    """Read a file; `label_map` renames labels, to "" drops them. CorpusError says what is wrong with it and where."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise CorpusError(f"{path}:{line}: not UTF-8 text; convert the file, or give another") from error
    if "\0" in text:
        raise CorpusError(f"{path}: holds NUL bytes, so it is not a text file; give a file of columns")
    sentences = _rows(path, text.split("\n"))
    if not sentences:
        raise CorpusError(f"{path}: holds no sentence; give a file with a token and its tag on each line")
    tag_column = _tag_column(path, sentences)
    word_column = 1 if tag_column > 1 and all(_counts(sentence) for sentence in sentences) else 0
    tagged = [[(line, columns[word_column], columns[tag_column]) for line, columns in rows] for rows in sentences]
    scheme = _scheme([[tag for _, _, tag in sentence] for sentence in tagged])
    rename = label_map or {}
    found, repairs = [], []
    for sentence in tagged:
        spans, broken = _spans([tag for _, _, tag in sentence], strict=scheme not in ("IO", "IOB1"))
        repairs += [f"{path}:{sentence[at][0]}: {sentence[at][2]} begins an entity" for at in broken]
        renamed = [span._replace(label=rename.get(span.label, span.label)) for span in spans]
        found.append(Sentence(tuple(word for _, word, _ in sentence), tuple(span for span in renamed if span.label)))
    return Corpus(path, found, scheme, repairs)


def _rows(path: Path, lines: Sequence[str]) -> list[list[_Row]]:
    """Sentences as rows of columns, all of one width."""
    tabs = any("\t" in line.strip() for line in lines)
    sentences: list[list[_Row]] = [[]]
    width = 0
    for number, line in enumerate(lines, 1):
        columns = line.rstrip("\r").split("\t") if tabs else line.split()
        if not line.strip() or columns[0] == "-DOCSTART-" or line.startswith("-DOCSTART-"):
            if sentences[-1]:
                sentences.append([])
            continue
        if line.startswith("#") and (len(columns) == 1 if tabs else not _TAG.fullmatch(columns[-1])):
            continue
        columns = [column.strip() for column in columns]
        width = width or len(columns)
        if width < 2:
            raise CorpusError(
                f"{path}:{number}: has 1 column; give a token and its tag on each line, tab or space between"
            )
        if len(columns) != width:
            raise CorpusError(
                f"{path}:{number}: has {len(columns)} of the {width} columns that the file began with; make them equal"
            )
        sentences[-1].append((number, columns))
    return [sentence for sentence in sentences if sentence]


def _tag_column(path: Path, sentences: Sequence[Sequence[_Row]]) -> int:
    """The column that holds tags most often, the last of equals."""
    rows = [row for sentence in sentences for row in sentence]
    width = len(rows[0][1])
    hits = [sum(bool(_TAG.fullmatch(columns[at])) for _, columns in rows) for at in range(1, width)]
    column = max(range(1, width), key=lambda at: (hits[at - 1], at))
    if hits[column - 1] < len(rows) / 2:
        raise CorpusError(f"{path}: no column holds tags; expected O and B-X, I-X (or another scheme) on each line")
    for line, columns in rows:
        if not _TAG.fullmatch(columns[column]):
            raise CorpusError(
                f"{path}:{line}: unknown tag {columns[column]!r}; expected O, or B-, I-, E-, S-, L- or U- and a label"
            )
    return column


def _counts(sentence: Sequence[_Row]) -> bool:
    return [columns[0] for _, columns in sentence] == [str(number) for number in range(1, len(sentence) + 1)]


def _scheme(sentences: Sequence[Sequence[str]]) -> str:
    """The scheme these tags are written in."""
    prefixes = Counter(tag[0] for tags in sentences for tag in tags)
    if prefixes["L"] or prefixes["U"]:
        return "BILOU"
    if prefixes["E"] or prefixes["S"]:
        return "BIOES"
    if not prefixes["B"]:
        return "IO" if prefixes["I"] else "BIO"
    # In IOB1 an entity begins with I-, and B- only parts it from one of the same label right before.
    begins: Counter[str] = Counter()
    for tags in sentences:
        for before, tag in pairwise(("O", *tags)):
            if tag != "O" and before[1:] != tag[1:]:
                begins[tag[0]] += 1
    return "IOB1" if begins["I"] > begins["B"] else "BIO"


def _spans(tags: Sequence[str], *, strict: bool) -> tuple[list[Span], list[int]]:
    """Spans of tags of any scheme, and where, if `strict`, an entity begins without its B, S or U."""
    spans: list[Span] = []
    broken: list[int] = []
    start = -1  # of the entity that is open
    for at, tag in enumerate((*tags, "O")):
        prefix, label = tag[0], tag[2:]
        if start >= 0 and (prefix in "OBSU" or label != tags[start][2:]):
            spans.append(Span(start, at, tags[start][2:]))
            start = -1
        if prefix != "O" and start < 0:
            start = at
            if strict and prefix in "IEL":
                broken.append(at)
        if prefix in "ESLU":
            spans.append(Span(start, at + 1, label))
            start = -1
    return spans, broken
