"""Files of documents: one on each line, or one sentence of columns."""

import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

from nerclient.results import Input

_BOM = b"\xef\xbb\xbf"
_BLOCK_BYTES = 8192


class UnreadableError(Exception):
    """A file cannot be read as text; says what to do."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document and where it begins. A `problem` keeps its place among the others; `input` is None if unreadable."""

    place: str  # FILE:LINE
    input: Input | None
    problem: str | None = None


Parse: TypeAlias = Callable[[str, Iterable[bytes]], Iterator[Document]]


def check(path: str) -> None:
    """Raises UnreadableError if what is not a pipe cannot be read."""
    with suppress(OSError):
        if path == "-" or not (stat.S_ISREG(os.stat(path).st_mode) or stat.S_ISDIR(os.stat(path).st_mode)):
            return
    _open(path).close()


def read(path: str, parse: Parse) -> Iterator[Document]:
    """The documents of a file, or of standard input for "-", each as soon as its lines are there."""
    with _open(path) as stream:
        try:
            yield from parse("stdin" if path == "-" else path, stream)
        except OSError as error:
            raise UnreadableError(f"cannot be read: {error.strerror}") from None


def texts(name: str, lines: Iterable[bytes]) -> Iterator[Document]:
    """Every line is a text. Only a line feed, or carriage return and line feed, ends a line."""
    for number, line in enumerate(lines, 1):
        yield _decoded(f"{name}:{number}", line)


def token_lines(name: str, lines: Iterable[bytes]) -> Iterator[Document]:
    """Every line is a sentence of tokens with spaces or tabs between them."""
    for document in texts(name, lines):
        if isinstance(document.input, str):
            yield Document(document.place, [token for token in re.split("[ \t]", document.input) if token])
        else:
            yield document


def conll(name: str, lines: Iterable[bytes]) -> Iterator[Document]:
    """Every line is a word and maybe more columns, with tabs or spaces between; a blank line ends a sentence.

    -DOCSTART- lines are skipped, and so are comments: lines that begin with # and have another number of columns than
    the rest. Any other line whose number of columns is not that of the file's first word spoils its sentence.
    """
    width = 0
    words: list[str] = []
    place, problem = "", None
    for line in texts(name, lines):
        text = line.input if isinstance(line.input, str) else ""
        columns = _columns(text)
        if line.problem is None and (not columns or columns[0] == "-DOCSTART-"):
            if words:
                yield Document(place, None if problem else words, problem)
            words, problem = [], None
        elif not _is_comment(text, columns, width):
            reason = line.problem
            width = width or len(columns)
            if reason is None and len(columns) != width:
                reason = f"it has {len(columns)} of the {width} columns that the file began with; make them equal"
            elif reason is None and not columns[0]:
                reason = "its first column, the word, is empty; fill it"
            if not words or (reason and not problem):
                place = line.place
            words.append(columns[0] if columns else "")
            problem = problem or reason
    if words:
        yield Document(place, None if problem else words, problem)


def _open(path: str) -> BinaryIO:
    if path == "-" and sys.stdin is None:
        raise UnreadableError("is closed; give a file or a pipe")
    try:
        # Not sys.stdin: a thread that still waits in it at exit would make the interpreter abort.
        stream = open(0, "rb", closefd=False) if path == "-" else open(path, "rb")  # noqa: SIM115
    except IsADirectoryError:
        raise UnreadableError("is a directory; name the files in it") from None
    except FileNotFoundError:
        raise UnreadableError("no such file; check the name, or give - for standard input") from None
    except PermissionError:
        raise UnreadableError("permission denied; make it readable") from None
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from None
    assert isinstance(stream, io.BufferedReader)
    try:
        block = stream.peek(_BLOCK_BYTES)[:_BLOCK_BYTES]
    except OSError as error:
        stream.close()
        raise UnreadableError(f"cannot be read: {error.strerror}") from None
    if b"\0" in block:
        stream.close()
        raise UnreadableError("is a binary file or UTF-16, not text; give UTF-8 text")
    if block.startswith(_BOM):
        stream.read(len(_BOM))
    return stream


def _decoded(place: str, line: bytes) -> Document:
    line = line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n")
    try:
        return Document(place, line.decode())
    except UnicodeDecodeError as error:
        return Document(place, None, f"invalid UTF-8 at byte {error.start + 1}; convert the file to UTF-8")


def _columns(line: str) -> list[str]:
    if "\t" in line:
        return line.split("\t") if line.strip() else []
    return [column for column in line.split(" ") if column]


def _is_comment(text: str, columns: list[str], width: int) -> bool:
    if not text.startswith("#"):
        return False
    if width:
        return len(columns) != width
    return "\t" not in text and (len(columns) == 1 or columns[0] == "#")
