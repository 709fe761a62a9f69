"""The model card: what is known of a version, as markdown beside its checkpoint."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from nermodel.checkpoint import Card, Model
from nermodel.vocabulary import MAX_WORD_CHARS
from nertrainer.corpus import Corpus
from nertrainer.evaluation import Evaluation
from nertrainer.tables import groups_table

FEW = 100  # entities; a figure that rests on fewer is called uncertain
# Of the provenance, in a place of their own.
_SHOWN = ("train", "dev", "vectors", "teachers", "gazetteers", "labels", "recipe")


@dataclass(frozen=True)
class Origin:
    """A file that a model was trained on or chosen by."""

    file: str
    sha256: str
    sentences: int


@dataclass(frozen=True)
class Measured:
    """A model's figures on one file."""

    corpus: Corpus
    result: Evaluation


def origins(card: Card, use: str) -> list[Origin]:
    """The files that the provenance names under `use`, "train" or "dev"; none where it does not say so as we do."""
    try:
        return [
            Origin(str(origin["file"]), str(origin["sha256"]), int(origin["sentences"]))
            for origin in card.provenance[use]
        ]
    except (KeyError, TypeError, ValueError):
        return []


def label_map(card: Card) -> dict[str, str]:
    """Which labels of its files were renamed, to "" dropped."""
    labels = card.provenance.get("labels")
    return {str(old): str(new) for old, new in labels.items()} if isinstance(labels, Mapping) else {}


def model_card(model: Model, version: str, size: int, measured: Sequence[Measured], gates: Sequence[str]) -> str:
    """The card of `version`, such as "en/000007", a file of `size` bytes, with its figures and how the gates went."""
    sections = [
        f"# {_plain(version)}\n\n"
        f"A BiLSTM-CRF that finds {_names(model.labels)}. One file of {size / 1e6:.1f} MB, written on "
        f"{datetime.fromisoformat(model.card.created):%Y-%m-%d at %H:%M} UTC.\n"
        f"SHA-256 of its contents: `{model.sha256}`.",
        "## Figures\n\n" + _figures(model.card, measured),
        "## Gates\n\n" + _list(map(_plain, gates)),
        _data(model.card),
        "## Recipe\n\n" + _recipe(model.card),
        "## Limits\n\n" + _list(_limits(model, measured)),
        _again(version, model.card, [one.corpus.name for one in measured]),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _figures(card: Card, measured: Sequence[Measured]) -> str:
    said = "Entity-level figures in percent, seqeval strict over BIO"
    if not measured:
        rows = [(name, f"{100 * value:.2f}") for name, value in card.metrics.items() if name.startswith("dev_f1")]
        return f"{said}, as its training measured them.\n\n" + _table(("figure", "F1"), rows)
    parts = [f"{said}, of this checkpoint. Only the types that a file annotates are scored on it."]
    for one in measured:
        figures = groups_table("type", one.result.per_type, one.result.overall)
        table = _table(figures.columns, [*figures.rows, *figures.last])
        parts.append(f"{_plain(one.corpus.name)}, {len(one.corpus.sentences):,} sentences:\n\n{table}")
    if "dev_f1" in card.metrics:
        parts.append(f"Mean F1 of its dev files, as training measured it: {100 * card.metrics['dev_f1']:.2f}.")
    return "\n\n".join(parts)


def _data(card: Card) -> str:
    rows = [
        (use, origin.file, f"{origin.sentences:,}", origin.sha256)
        for use, name in (("training", "train"), ("choosing the epoch", "dev"))
        for origin in origins(card, name)
    ]
    return "## Data\n\n" + _table(("used for", "file", "sentences", "SHA-256"), rows) if rows else ""


def _recipe(card: Card) -> str:
    known = dict(card.provenance)
    recipe = known.get("recipe")
    network = asdict(card.network)
    facts: dict[str, Any] = {name: value for name, value in known.items() if name not in _SHOWN}
    for name in ("vectors", "teachers", "gazetteers"):
        files = [f"{file['file']} (SHA-256 {file['sha256']})" for file in known.get(name, [])]
        facts[name] = ", ".join(files) or "none"
    if label_map(card):
        facts["labels renamed"] = _renaming(label_map(card))
    return _list(
        f"{_plain(name)}: {_plain(_value(value))}"
        for name, value in {**(recipe if isinstance(recipe, Mapping) else {}), **network, **facts}.items()
    )


def _limits(model: Model, measured: Sequence[Measured]) -> Iterable[str]:
    """What the figures themselves say, and what the model is built not to do."""
    support: Counter[str] = Counter()
    for one in measured:
        support.update({label: scores.support for label, scores in one.result.per_type.items()})
    if measured:
        by_f1 = [
            (scores.f1, label, one.corpus.name) for one in measured for label, scores in one.result.per_type.items()
        ]
        unknown = [label for label in model.labels if not support[label]]
        few = [f"{label} ({support[label]})" for label in model.labels if 0 < support[label] < FEW]
        if by_f1:
            f1, label, file = min(by_f1)
            yield f"Weakest: {_plain(label)} in {_plain(file)}, F1 {100 * f1:.2f}."
        if few:
            yield f"Fewer than {FEW} entities make the figures of {_names(few)} uncertain."
        if unknown:
            yield f"No file above annotates {_names(unknown)}, so no figure tells how well it is found."
    if origins(model.card, "dev"):
        yield "The epoch was chosen by the dev files: on other text of their kind expect a little less."
    yield "Text of another language, domain or casing than these files was not measured."
    yield f"The character encoder reads the first {MAX_WORD_CHARS} characters of a word."


def _again(version: str, card: Card, files: Sequence[str]) -> str:
    labels = f" --labels {shlex.quote(_renaming(label_map(card)))}" if label_map(card) else ""
    names = files or [origin.file for origin in origins(card, "dev")] or ["FILE"]
    command = f"nertrainer evaluate {version.rpartition('/')[2]}.safetensors {shlex.join(names)}{labels}"
    return f"## Evaluate again\n\nIn this folder, with the files named above:\n\n    {_line(command)}"


def _renaming(labels: Mapping[str, str]) -> str:
    return ",".join(f"{old}={new}" for old, new in labels.items())


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _names(names: Sequence[str]) -> str:
    return _plain(" and ".join(filter(None, (", ".join(names[:-1]), names[-1]))))


def _plain(text: str) -> str:
    """Text in one line that markdown shows as it is."""
    return re.sub(r"([\\`*<>|\[\]])", r"\\\1", _line(text))


def _line(text: str) -> str:
    return " ".join(text.split())
