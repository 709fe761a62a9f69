"""What several commands share: options, and reading what they name."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from nermodel.checkpoint import Model, load, versions
from nertrainer import reading
from nertrainer.check import coverage, overlap, word_counts
from nertrainer.corpus import Corpus, CorpusError, check_label
from nertrainer.report import screen

FEW_VECTORS = 0.5  # words with a vector; fewer are warned of
TOO_FEW_VECTORS = 0.1  # tokens with a vector; fewer are refused: vectors of another language, or not of words

Device = Literal["auto", "cpu", "cuda"]
LabelMap = Annotated[
    str, typer.Option("--labels", help="Rename labels of every file: person=PER,product= (empty drops the label).")
]


def read_label_map(text: str) -> dict[str, str]:
    """Of `OLD=NEW,OLD=NEW`; ValueError where it is something else."""
    found: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        old, *new = (name.strip() for name in part.split("="))
        if not old or len(new) != 1:
            raise ValueError(
                f"--labels: got {part.strip()!r}, expected OLD=NEW; with commas between, such as person=PER,product="
            )
        if old in found:
            raise ValueError(f"--labels renames {old} twice; keep one of the two")
        check_label(new[0], "--labels: the new label")
        if new[0] != "".join(new[0].split()):
            raise ValueError(f"--labels: the new label {new[0]!r} holds white space; give it without")
        found[old] = new[0]
    return found


def read_model(path: Path, device: torch.device) -> Model:
    """Load a checkpoint; where a folder is given, ValueError names the file in it that was meant."""
    if path.is_dir():
        best = path / "best.safetensors"
        meant = best if best.is_file() else next(iter(versions(path)[-1:]), "a .safetensors file")
        raise ValueError(f"{path}: a folder, not a checkpoint; give {meant}")
    return load(path, device)


def check_entities(corpus: Corpus, labels: Mapping[str, str]) -> None:
    """CorpusError where a corpus holds no entity, as nothing can be learnt from it nor scored on it."""
    if corpus.labels:
        return
    if corpus.written and not any(labels.get(label, label) for label in corpus.written):
        dropped = ", ".join(sorted(corpus.written))
        raise CorpusError(f"{corpus.path}: --labels drops every label that it holds ({dropped}); keep one of them")
    kept = f" that could be kept, see {corpus.repairs[0]}" if corpus.written and corpus.repairs else ""
    raise CorpusError(f"{corpus.path}: holds no entity{kept}; give annotated text")


def read_corpus(path: Path, labels: dict[str, str]) -> Corpus:
    """Read a file or folder and say what was found; CorpusError where that is no entity."""
    corpus = reading.read_corpus(path, labels)
    check_entities(corpus, labels)
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


def say_missing_labels(checkpoint: Path, model: Model, corpora: Sequence[Corpus]) -> None:
    """Warn of labels that the files hold and the model cannot find, so that their entities all count as missed."""
    missing = sorted({label for corpus in corpora for label in corpus.labels} - {*model.labels})
    if missing:
        say(
            f"warning: {checkpoint} has none of {', '.join(missing)}; it has {', '.join(model.labels)}; "
            "rename those of the files with --labels"
        )


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
    found = coverage(word_counts(corpora), vectors)
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
