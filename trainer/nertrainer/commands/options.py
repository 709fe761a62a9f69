"""What several commands share: options, and reading what they name."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from nertrainer.corpus import Corpus, read_columns
from nertrainer.report import screen

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
    """Read a file and say what was found."""
    corpus = read_columns(path, labels)
    say(
        f"{path}: {len(corpus.sentences):,} sentences, {sum(len(s.words) for s in corpus.sentences):,} tokens, "
        f"{sum(len(s.spans) for s in corpus.sentences):,} entities ({', '.join(corpus.labels)}), {corpus.scheme}"
    )
    if corpus.repairs:
        say(f"{len(corpus.repairs)} tags broke the {corpus.scheme} scheme and were mended, first {corpus.repairs[0]}")
    return corpus


def torch_device(name: Device) -> torch.device:
    """The device of this name; ValueError where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this torch sees no CUDA device; give --device cpu, or install a CUDA build")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def say(message: str) -> None:
    """Print a line for people, on stderr."""
    screen.print(message, highlight=False, markup=False, soft_wrap=True)
