"""Reading a corpus from whatever holds one: columns, JSON lines, or a folder of such files."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

from nertrainer.corpus import Corpus, CorpusError, parse_columns, read_text
from nertrainer.jsonl import parse_spans

ENDINGS = re.compile(r"\.(conll|txt|tsv|bio|iob\w*|jsonl)")  # of the files that are read of a folder
_OBJECT = re.compile(r'\s*\{\s*["}]')  # how JSON lines begin, and columns do not
_ARRAY = re.compile(r"\s*\[\s*\{")


def read_corpus(path: Path, label_map: Mapping[str, str] | None = None) -> Corpus:
    """Read a file, or a folder's files in the order of their names; `label_map` renames labels, to "" drops them.

    CorpusError says what is wrong and where, OSError why a file cannot be read.
    """
    if not path.is_dir():
        return _read_file(path, label_map or {})
    files = sorted(
        file
        for file in path.iterdir()
        if ENDINGS.fullmatch(file.suffix.lower()) and not file.name.startswith(".") and not file.is_dir()
    )
    if not files:
        raise CorpusError(
            f"{path}: a folder without .conll, .txt, .tsv, .bio, .iob or .jsonl files; give annotated text"
        )
    parts = [_read_file(file, label_map or {}) for file in files]
    return replace(
        parts[0],
        path=path,
        sentences=list(chain.from_iterable(part.sentences for part in parts)),
        scheme=", ".join(dict.fromkeys(part.scheme for part in parts)),
        repairs=list(chain.from_iterable(part.repairs for part in parts)),
        places=list(chain.from_iterable(part.places for part in parts)),
        written=frozenset[str]().union(*(part.written for part in parts)),
        form="; ".join(dict.fromkeys(part.form for part in parts)),
        files=files,
    )


def _read_file(path: Path, label_map: Mapping[str, str]) -> Corpus:
    text = read_text(path)
    if _ARRAY.match(text) or (path.suffix.lower() in (".json", ".jsonl") and text.lstrip().startswith("[")):
        raise CorpusError(f"{path}: one JSON array; give one object a line, without brackets and commas around them")
    is_json = path.suffix.lower() == ".jsonl" or _OBJECT.match(text)
    return (parse_spans if is_json else parse_columns)(path, text, label_map)
