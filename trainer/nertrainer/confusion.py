"""What became of each gold entity, and where each predicted one came from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nermodel.tags import Span


@dataclass(frozen=True)
class Confusion:
    """Counts by label. Every gold and every predicted entity is counted once among its own."""

    same_borders: dict[str, dict[str, int]]  # gold label, then predicted label; those of equal labels are right
    gold_other_borders: dict[str, int]  # gold entities that only overlap predicted ones
    missed: dict[str, int]  # gold entities that overlap nothing predicted
    predicted_other_borders: dict[str, int]  # predicted entities that only overlap gold ones
    spurious: dict[str, int]  # predicted entities that overlap nothing in the gold


def confusion(labels: Sequence[str], gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> Confusion:
    """Count over sentences; no span has a label outside `labels`, and none overlaps another of its own side."""
    pairs: Counter[tuple[str, str]] = Counter()
    sides: tuple[Counter[str], ...] = (Counter(), Counter(), Counter(), Counter())
    gold_borders, missed, predicted_borders, spurious = sides
    for right, found in zip(gold, predicted, strict=True):
        there = {(span.start, span.end): span.label for span in found}
        pairs.update((span.label, there[span.start, span.end]) for span in right if (span.start, span.end) in there)
        _count_rest(right, found, gold_borders, missed)
        _count_rest(found, right, predicted_borders, spurious)
    table = {row: {column: pairs[row, column] for column in labels} for row in labels}
    return Confusion(table, *({label: side[label] for label in labels} for side in sides))


def _count_rest(spans: Sequence[Span], others: Sequence[Span], overlapping: Counter[str], alone: Counter[str]) -> None:
    """Count the spans whose borders none of the others has, by whether one overlaps."""
    borders = {(span.start, span.end) for span in others}
    for span in spans:
        if (span.start, span.end) not in borders:
            near = any(span.start < other.end and other.start < span.end for other in others)
            (overlapping if near else alone)[span.label] += 1
