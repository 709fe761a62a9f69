"""What several commands share: options, and reading what they name."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from nertrainer import reading
from nertrainer.check import coverage, overlap
from nertrainer.corpus import Corpus, CorpusError
from nertrainer.report import screen

FEW_VECTORS = 0.5  # words with a vector; fewer are warned of
TOO_FEW_VECTORS = 0.1  # tokens with a vector; fewer are refused: vectors of another language, or not of words

Device = Literal["auto", "cpu", "cuda"]
LabelMap = Annotated[
    str, typer.Option("--labels", help="Rename labels of every file: person=PER,product= (empty drops the label).")
]


def read_label_map(text: str) -> dict[str, str]:
    """Of `OLD=NEW,OLD=NEW`; ValueError where it is something else."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    for old, equals, _ in pairs:
        if not old or not equals:
            raise ValueError(f"--labels {text}: expected OLD=NEW, with commas between, such as person=PER,product=")
    return {old: new for old, _, new in pairs}


def read_corpus(path: Path, labels: dict[str, str]) -> Corpus:
    """Read a file or folder and say what was found."""
    corpus = reading.read_corpus(path, labels)
    say(
        f"{path}: {len(corpus.sentences):,} sentences, {sum(len(s.words) for s in corpus.sentences):,} tokens, "
        f"{sum(len(s.spans) for s in corpus.sentences):,} entities ({', '.join(corpus.labels)}), "
        f"{corpus.scheme}, {corpus.form}"
    )
    if corpus.repairs:
        say(f"warning: {len(corpus.repairs):,} places of {path} were mended or left out, first {corpus.repairs[0]}")
    return corpus


def say_unused_labels(labels: Mapping[str, str], corpora: Sequence[Corpus]) -> None:
    """Warn of labels that --labels renames and no file holds."""
    written = frozenset[str]().union(*(corpus.written for corpus in corpora))
    unused = ", ".join(label for label in labels if label not in written)
    if unused:
        say(f"warning: --labels names {unused}, which no file holds; they hold {', '.join(sorted(written))}")


def say_overlap(training: Sequence[Corpus], dev: Sequence[Corpus]) -> None:
    """Warn of dev sentences that are training sentences too."""
    found = overlap(training, dev)
    if found:
        say(
            f"warning: {found.count:,} of the dev sentences ({100 * found.share:.1f} %) are training sentences too, "
            f"so their F1 is too good; first {found.again}, which is {found.first}"
        )


def say_coverage(corpora: Sequence[Corpus], vectors: Container[str]) -> None:
    """Say how much of the training text has a vector; CorpusError where it is next to nothing."""
    found = coverage(corpora, vectors)
    said = (
        f"{100 * found.tokens:.0f} % of the training tokens and {100 * found.words:.0f} % of their distinct words "
        "have a vector"
    )
    if found.tokens < TOO_FEW_VECTORS:
        raise CorpusError(f"only {said}; give vectors of the same language, or none")
    low = min(found.tokens, found.words) < FEW_VECTORS
    say(f"warning: only {said}; are they of the same language?" if low else said)


def torch_device(name: Device) -> torch.device:
    """The device of this name; ValueError where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this torch sees no CUDA device; give --device cpu, or install a CUDA build")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def say(message: str) -> None:
    """Print a line for people, on stderr."""
    screen.print(message, highlight=False, markup=False, soft_wrap=True)
