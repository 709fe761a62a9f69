"""What is counted besides strict F1: partial matches, confusions, and whether scores mean what they say."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nervaluate import Evaluator

from nermodel.tags import Span

BINS = 10
MEASURES = {  # with what must be right
    "strict": "boundaries and type",
    "exact": "boundaries, whatever the type",
    "partial": "boundaries, an overlap counts half",
    "ent_type": "type, on any overlap",
}


@dataclass(frozen=True)
class Counts:
    """Figures in [0, 1] and the counts they come of."""

    precision: float
    recall: float
    f1: float
    correct: int
    incorrect: int
    partial: int
    missed: int
    spurious: int


@dataclass(frozen=True)
class Measure:
    """One way to count an entity as found."""

    overall: Counts
    per_type: dict[str, Counts]


@dataclass(frozen=True)
class Confusion:
    """Counts by label. Every gold and every predicted entity is counted once among its own."""

    same_boundaries: dict[str, dict[str, int]]  # gold label, then predicted label; those of equal labels are right
    gold_other_boundaries: dict[str, int]  # gold entities that only overlap predicted ones
    missed: dict[str, int]  # gold entities that overlap nothing predicted
    predicted_other_boundaries: dict[str, int]  # predicted entities that only overlap gold ones
    spurious: dict[str, int]  # predicted entities that overlap nothing in the gold


@dataclass(frozen=True)
class Bin:
    """The predicted entities whose score lies in [low, high), for the last bin [low, high]."""

    low: float
    high: float
    count: int
    confidence: float | None  # their mean score; None where there are none, as the next
    accuracy: float | None  # the share of them that is right


@dataclass(frozen=True)
class Calibration:
    """The reliability table, and the expected calibration error (Guo et al. 2017, arXiv:1706.04599) over its bins."""

    ece: float | None  # the mean distance of confidence and accuracy, by count; None of no entities
    bins: tuple[Bin, ...]


def measures(
    labels: Sequence[str], gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]
) -> dict[str, Measure]:
    """Each of MEASURES over sentences, by nervaluate (after SemEval-2013 task 9).

    No span has a label outside `labels`, and each of those is in the gold.
    """
    if not labels:
        return {name: Measure(Counts(0.0, 0.0, 0.0, 0, 0, 0, 0, 0), {}) for name in MEASURES}
    true, pred = map(_entities, zip(*_clusters(gold, predicted), strict=True))
    result = Evaluator(true, pred, list(labels), loader="dict").evaluate()
    return {
        name: Measure(
            _counts(result["overall"][name]), {label: _counts(result["entities"][label][name]) for label in labels}
        )
        for name in MEASURES
    }


def confusion(labels: Sequence[str], gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> Confusion:
    """Count over sentences; no span has a label outside `labels`, and none overlaps another of its own side."""
    pairs: Counter[tuple[str, str]] = Counter()
    sides: tuple[Counter[str], ...] = (Counter(), Counter(), Counter(), Counter())
    gold_boundaries, missed, predicted_boundaries, spurious = sides
    for right, found in _clusters(gold, predicted):
        there = {(span.start, span.end): span.label for span in found}
        pairs.update((span.label, there[span.start, span.end]) for span in right if (span.start, span.end) in there)
        _count_rest(right, found, gold_boundaries, missed)
        _count_rest(found, right, predicted_boundaries, spurious)
    table = {row: {column: pairs[row, column] for column in labels} for row in labels}
    return Confusion(table, *({label: side[label] for label in labels} for side in sides))


def calibrate(scored: Sequence[tuple[float, bool]]) -> Calibration:
    """Of the score in [0, 1] of each predicted entity and whether it is right, in BINS bins of equal width."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for score, right in scored:
        members[min(int(score * BINS), BINS - 1)].append((score, right))
    bins = tuple(_bin(row, found) for row, found in enumerate(members))
    distance = sum(abs(sum(score - right for score, right in found)) for found in members)
    return Calibration(distance / len(scored) if scored else None, bins)


def _clusters(
    gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]
) -> list[tuple[list[Span], list[Span]]]:
    """The spans of each sentence in groups between which none overlap: spans of a group alone are compared in pairs."""
    clusters: list[tuple[list[Span], list[Span]]] = []
    for right, found in zip(gold, predicted, strict=True):
        end = 0
        for span, side in sorted([*((span, 0) for span in right), *((span, 1) for span in found)]):
            if span.start >= end:
                clusters.append(([], []))
            clusters[-1][side].append(span)
            end = max(end, span.end)
    return clusters


def _entities(sentences: Sequence[Sequence[Span]]) -> list[list[dict[str, str | int]]]:
    """As nervaluate reads them: the end is the last token."""
    return [[{"label": span.label, "start": span.start, "end": span.end - 1} for span in spans] for spans in sentences]


def _counts(result: object) -> Counts:
    return Counts(**{name: getattr(result, name) for name in Counts.__dataclass_fields__})


def _count_rest(spans: Sequence[Span], others: Sequence[Span], overlapping: Counter[str], alone: Counter[str]) -> None:
    """Count the spans whose boundaries none of the others has, by whether one overlaps."""
    boundaries = {(span.start, span.end) for span in others}
    for span in spans:
        if (span.start, span.end) not in boundaries:
            near = any(span.start < other.end and other.start < span.end for other in others)
            (overlapping if near else alone)[span.label] += 1


def _bin(row: int, found: Sequence[tuple[float, bool]]) -> Bin:
    low, high, count = row / BINS, (row + 1) / BINS, len(found)
    if not found:
        return Bin(low, high, 0, None, None)
    return Bin(low, high, count, sum(score for score, _ in found) / count, sum(right for _, right in found) / count)
