"""`nertrainer fetch`: bring known corpora here by name."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from nertrainer.commands.options import say
from nertrainer.fetch import FetchError, Watch, fetch
from nertrainer.known import CORPORA, KnownCorpus
from nertrainer.report import screen


def fetch_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help=f"Of {', '.join(CORPORA)}.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder to put NAME into.")] = Path("data"),
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Take the files from DIR/NAME or DIR, not from the network.", metavar="DIR"),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the corpora that are known.")] = False,
) -> None:
    """Bring known corpora here, byte for byte as published.

    Downloads into OUTPUT/NAME/, goes on where a broken download ended, and checks every file by its SHA-256. A file
    that is there stays as it is. Prints the paths.

    \b
        nertrainer fetch wnut17 btc wikigold
    """
    if show:
        Console().print(corpora_table(CORPORA))
    else:
        fetch_corpora(CORPORA, names or [], output, source)


def fetch_corpora(
    corpora: Mapping[str, KnownCorpus], names: Sequence[str], output: Path, source: Path | None = None
) -> None:
    """Fetch the named of these corpora into OUTPUT/NAME/ and print the paths; FetchError names a file that failed."""
    unknown = [name for name in names if name not in corpora]
    if unknown or not names:
        raise FetchError(f"{unknown[0] if unknown else 'no corpus named'}: expected {', '.join(corpora)}")
    if source and not source.is_dir():
        raise FetchError(f"--from {source}: no such folder; give one that holds the files")
    for name in names:
        corpus = corpora[name]
        say(f"{name}: {corpus.title}; licence {corpus.licence}; cite {corpus.cite}")
        for part in corpus.parts:
            path = output / name / part.name
            with _bar(str(path), part.size) as watch:
                how = fetch(part, path.parent, source, watch)
            say(f"{path}: {how}, SHA-256 as published")
            print(path)  # noqa: T201


def corpora_table(corpora: Mapping[str, KnownCorpus]) -> Table:
    """What each corpus is, its files and its licence."""
    table = Table("name", "what it is", "files", "licence")
    for name, corpus in corpora.items():
        table.add_row(name, corpus.title, " ".join(part.name for part in corpus.parts), corpus.licence)
    return table


@contextmanager
def _bar(name: str, size: int) -> Iterator[Watch]:
    """A bar on a terminal's stderr, moved by calling what it yields, and nothing elsewhere."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(name, total=size)
        yield lambda done: progress.update(task, completed=done)
