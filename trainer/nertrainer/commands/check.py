"""`nertrainer check`: what annotated files hold, and what is wrong with them."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from nertrainer.check import Figures, Overlap, duplicates, figures, overlap, word_counts
from nertrainer.commands.options import (
    LabelMap,
    check_entities,
    read_label_map,
    say,
    say_coverage,
    say_unused_labels,
)
from nertrainer.corpus import Corpus, CorpusError
from nertrainer.reading import read_corpus
from nertrainer.report import sheet
from nertrainer.vectors import Vectors, read_vectors

REPAIRS_SHOWN = 3  # of each file
OVERLAPS_SHOWN = 12
_Overlaps = Sequence[tuple[Corpus, Corpus, Overlap]]  # earlier, later (or the same)


def check_command(
    files: Annotated[
        list[Path], typer.Argument(help="Annotated files or folders, the training file first.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, on stdout.")] = False,
    labels: LabelMap = "",
    vectors: Annotated[Path | None, typer.Option(help="Word vectors, as for train.")] = None,
) -> None:
    """Show what annotated files hold, and what is wrong with them.

    Of each file: its scheme (IO, IOB1, BIO or IOB2, BIOES or IOBES, BILOU; or spans, of JSON lines), size, entity
    types, sentence lengths, words that are new to the first file, and what had to be mended or left out; and the
    sentences that stand twice, in one file or in two. Exits with 1 if one of them cannot be trained on.

    \b
        nertrainer check train.conll dev.conll
    """
    label_map = read_label_map(labels)
    pretrained = _vectors(vectors)
    corpora, errors = _read(files, label_map)
    if corpora:
        say_unused_labels(label_map, corpora)
    training = corpora[0] if corpora and corpora[0].path == files[0] else None  # None where it could not be read
    if training and pretrained is not None:
        try:
            say_coverage([training], pretrained)
        except CorpusError as refusal:
            errors.append(str(refusal))
    known = word_counts([training]) if training else None
    found = [figures(corpus, None if corpus is training else known, pretrained) for corpus in corpora]
    overlaps = [(corpus, corpus, twice) for corpus in corpora if (twice := duplicates(corpus))]
    overlaps += [(a, b, both) for a, b in combinations(corpora, 2) if (both := overlap([a], [b]))]
    if as_json:
        print(json.dumps(_json(corpora, found, overlaps, errors)))  # noqa: T201
    elif corpora:
        _show(corpora, found, overlaps)
    for error in errors:
        print(f"nertrainer: {error}", file=sys.stderr)  # noqa: T201
    if errors:
        raise typer.Exit(1)


def _vectors(path: Path | None) -> Vectors | None:
    if path is None:
        return None
    say(f"{path}: reading vectors")
    return read_vectors(path)


def _read(files: Sequence[Path], label_map: Mapping[str, str]) -> tuple[list[Corpus], list[str]]:
    """The corpora that can be read, and why others cannot be trained on."""
    corpora: list[Corpus] = []
    errors: list[str] = []
    for path in files:
        try:
            corpora.append(read_corpus(path, label_map))
        except CorpusError as error:
            errors.append(str(error))
            continue
        except OSError as error:
            errors.append(f"{error.filename or path}: {error.strerror or error}")
            continue
        try:
            check_entities(corpora[-1], label_map)
        except CorpusError as error:
            errors.append(str(error))
    return corpora, errors


def _lacking(corpus: Corpus, corpora: Sequence[Corpus]) -> list[str]:
    """Labels that other files hold and this one does not."""
    return sorted({label for other in corpora for label in other.labels} - {*corpus.labels})


def _json(
    corpora: Sequence[Corpus], found: Sequence[Figures], overlaps: _Overlaps, errors: Sequence[str]
) -> dict[str, Any]:
    files = [
        {
            "file": str(corpus.path),
            "scheme": corpus.scheme,
            "form": corpus.form,
            **asdict(each),
            "lacking": _lacking(corpus, corpora),
            "repairs": list(corpus.repairs),
        }
        for corpus, each in zip(corpora, found, strict=True)
    ]
    pairs = [{"files": [str(a.path), str(b.path)], **asdict(both)} for a, b, both in overlaps]
    return {"files": files, "overlaps": pairs, "errors": errors}


def _show(corpora: Sequence[Corpus], found: Sequence[Figures], overlaps: _Overlaps) -> None:
    """Print tables whose names are relative to the folder that all files share, which stands above them."""
    folder = os.path.commonpath([Path(os.path.abspath(corpus.path)).parent for corpus in corpora])

    def short(place: object) -> Text:
        return Text(os.path.relpath(str(place), folder), overflow="fold")

    names = [short(corpus.path) for corpus in corpora]
    sizes = _table("file", "scheme", "sentences", "tokens", "entities", "OOV", "repairs")
    if any(each.oov is not None for each in found):
        sizes.caption = Text(f"OOV: tokens whose word is not in {names[0]}")
    lengths = _table("tokens in a sentence", "median", "90 %", "99 %", "longest")
    if found[0].covered:
        lengths.add_column("tokens with\na vector", justify="right")
        lengths.add_column("words with\na vector", justify="right")
    types = _table("entities")
    types.add_column()
    for name, corpus, each in zip(names, corpora, found, strict=True):
        counts = (f"{count:,}" for count in (each.sentences, each.tokens, each.entities))
        repairs = Text(f"{len(corpus.repairs):,}", "yellow" if corpus.repairs else "")
        sizes.add_row(name, corpus.scheme, *counts, _percent(each.oov), repairs)
        shares = (each.covered.tokens, each.covered.words) if each.covered else ()
        lengths.add_row(name, *(f"{length:,}" for length in each.lengths.values()), *map(_percent, shares))
        types.add_row(name, _entities(corpus, each.types, _lacking(corpus, corpora)))
    console = sheet()
    console.print(Text(folder, "bold"), soft_wrap=True)
    for table in (sizes, lengths, types, *([_twice(overlaps, short)] if overlaps else [])):
        console.print(table)
    for corpus in corpora:
        if corpus.repairs:
            console.print(f"{len(corpus.repairs):,} mended or left out:", style="yellow", markup=False)
        for repair in corpus.repairs[:REPAIRS_SHOWN]:
            console.print(Text(repair), soft_wrap=True)
        if len(corpus.repairs) > REPAIRS_SHOWN:
            console.print("... (--json has them all)", markup=False)


def _entities(corpus: Corpus, counts: Mapping[str, int], lacking: Sequence[str]) -> Group:
    """How many there are of each type, types that only other files hold, and where all this was read."""
    lines: list[RenderableType] = [Text(corpus.form, "dim")]
    if lacking:
        lines.insert(0, Text(f"no {', '.join(lacking)}", "yellow", no_wrap=True, overflow="ellipsis"))
    return Group(Columns([Text(f"{label} {count:,}") for label, count in counts.items()], padding=(0, 2)), *lines)


def _twice(overlaps: _Overlaps, short: Callable[[object], Text]) -> Table:
    """Where sentences stand twice: most first."""
    most = sorted(overlaps, key=lambda each: -each[2].count)
    table = _table("the same sentence in", "and again in", "times", "share")
    table.columns[1].justify, table.columns[1].overflow = "left", "fold"
    for _, _, both in most[:OVERLAPS_SHOWN]:
        table.add_row(short(both.first), short(both.again), f"{both.count:,}", _percent(both.share))
    if len(most) > OVERLAPS_SHOWN:
        table.caption = f"{len(most) - OVERLAPS_SHOWN:,} more (--json has them all)"
    return table


def _table(first: str, *columns: str) -> Table:
    """A table with a name, then figures, in each row."""
    table = Table(
        Column(first, overflow="fold"),
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        caption_justify="left",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "scheme" else "right")
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
