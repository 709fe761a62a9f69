"""Two models on the same sentences: who is better, how sure that is, and what each finds alone.

How sure is told by a paired bootstrap over sentences (Koehn 2004; Berg-Kirkpatrick et al. 2012): what would the
difference be on other draws of as many sentences?
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nermodel.tags import Span
from nertrainer.corpus import Sentence, annotated_labels

EXAMPLES = 10
Counts = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """F1 in [0, 1] of both, and what the second has over the first."""

    f1_a: float
    f1_b: float
    difference: float  # b - a
    low: float  # of the interval that holds 95 % of the resampled differences
    high: float
    p_value: float  # two-sided: how often resampling strays from the difference by as much as the difference is
    support: int  # gold entities


@dataclass(frozen=True)
class Example:
    """A gold entity's words and label, and how often this happened to it."""

    surface: str
    label: str
    count: int


@dataclass(frozen=True)
class Alone:
    """The gold entities that one model finds and the other misses."""

    count: int
    per_type: dict[str, int]
    examples: tuple[Example, ...]  # the most frequent


@dataclass(frozen=True)
class Comparison:
    """Two models on one corpus. Only labels that the corpus annotates are compared."""

    overall: Difference
    per_type: dict[str, Difference]
    only_a: Alone
    only_b: Alone


def compare(
    sentences: Sequence[Sentence],
    a: Sequence[Sequence[Span]],
    b: Sequence[Sequence[Span]],
    resamples: int = 1000,
    seed: int = 1,
) -> Comparison:
    """Compare the spans that two models predicted of each sentence; a seed gives the same resamples always."""
    labels = annotated_labels(sentences)
    counts = np.stack([_counts(labels, sentences, a), _counts(labels, sentences, b)], axis=1)  # [S, 2, L + 1, 3]
    overall, *per_type = _differences(counts, resamples, seed)
    return Comparison(
        overall, dict(zip(labels, per_type, strict=True)), _alone(sentences, a, b), _alone(sentences, b, a)
    )


def _counts(labels: Sequence[str], sentences: Sequence[Sentence], predicted: Sequence[Sequence[Span]]) -> Counts:
    """How many entities of each sentence, over all labels (row 0) and by label, are right, predicted and gold."""
    rows = {label: row for row, label in enumerate(labels, 1)}
    counts = np.zeros((len(sentences), len(labels) + 1, 3), np.int64)
    for count, sentence, spans in zip(counts, sentences, predicted, strict=True):
        kept = {span for span in spans if span.label in rows}
        gold = set(sentence.spans)
        for column, found in enumerate((kept & gold, kept, gold)):
            for span in found:
                count[[0, rows[span.label]], column] += 1
    return counts


def _differences(counts: Counts, resamples: int, seed: int) -> list[Difference]:
    """Of each row of counts [S sentences, 2 models, rows, right/predicted/gold]."""
    rng = np.random.default_rng(seed)
    size = len(counts)
    flat = counts.reshape(size, -1)
    drawn = np.stack([np.bincount(rng.integers(size, size=size), minlength=size) @ flat for _ in range(resamples)])
    a, b = _f1(counts.sum(axis=0))  # each [rows]
    resampled = _f1(drawn.reshape(resamples, *counts.shape[1:]))  # [R, 2, rows]
    differences = resampled[:, 1] - resampled[:, 0]  # [R, rows]
    low, high = np.percentile(differences, (2.5, 97.5), axis=0)
    strays = np.abs(differences - (b - a)) >= np.abs(b - a) - 1e-12
    p_values = (strays.sum(axis=0) + 1) / (resamples + 1)
    support = counts[:, 0, :, 2].sum(axis=0)
    columns = (each.tolist() for each in (a, b, b - a, low, high, p_values, support))
    return [Difference(*row) for row in zip(*columns, strict=True)]


def _f1(counts: Counts) -> Figures:
    """Of counts [..., right/predicted/gold]; 0 where there is neither."""
    right, predicted, gold = np.moveaxis(counts, -1, 0)
    f1: Figures = 2 * right / np.maximum(1, predicted + gold)
    return f1


def _alone(sentences: Sequence[Sentence], finder: Sequence[Sequence[Span]], other: Sequence[Sequence[Span]]) -> Alone:
    found: Counter[tuple[str, str]] = Counter()
    for sentence, mine, theirs in zip(sentences, finder, other, strict=True):
        for span in {*sentence.spans} & {*mine} - {*theirs}:
            found[" ".join(sentence.words[span.start : span.end]), span.label] += 1
    labels: Counter[str] = Counter()
    for (_, label), count in found.items():
        labels[label] += count
    common = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:EXAMPLES]
    examples = tuple(Example(surface, label, count) for (surface, label), count in common)
    return Alone(found.total(), dict(sorted(labels.items())), examples)
