"""A model's figures as tables of text, which the terminal and the page show alike."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nertrainer.compare import Comparison, Difference
from nertrainer.evaluation import Scores
from nertrainer.measures import MEASURES, Calibration, Confusion, Measure

SCORES = ("precision", "recall", "F1", "entities")


class Table(NamedTuple):
    """Columns with their names, and rows whose first cell is their name."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    last: Sequence[Sequence[str]] = ()  # rows of another kind, below a line


def groups_table(name: str, groups: Mapping[str, Scores], overall: Scores | None = None) -> Table:
    """Precision, recall and F1 in percent of each group, and overall; `name` says what groups them."""
    rows = [(group, *cells(scores)) for group, scores in groups.items()]
    return Table((name, *SCORES), rows, [("all", *cells(overall))] if overall else [])


def measures_table(measures: Mapping[str, Measure]) -> Table:
    """The overall figures in percent of each way to count."""
    rows = []
    for name, measure in measures.items():
        counts = measure.overall
        figures = map(percent, (counts.precision, counts.recall, counts.f1))
        rows.append((f"{name}: {MEASURES[name]}", *figures))
    return Table(("counting", *SCORES[:3]), rows)


def confusion_table(confusion: Confusion) -> Table:
    """What the gold entities of each type (rows) were predicted as (columns)."""
    rows = [
        (label, *_counts(*row.values(), confusion.gold_other_boundaries[label], confusion.missed[label]))
        for label, row in confusion.same_boundaries.items()
    ]
    spurious = {"other boundaries": confusion.predicted_other_boundaries, "spurious": confusion.spurious}
    return Table(
        ("file \\ model", *confusion.same_boundaries, "other boundaries", "missed"),
        rows,
        [(name, *_counts(*counts.values())) for name, counts in spurious.items()],
    )


def calibration_table(calibration: Calibration) -> Table:
    """The bins that hold entities."""
    rows = [
        (f"{each.low:.1f} to {each.high:.1f}", f"{each.count:,}", f"{each.confidence:.3f}", f"{each.accuracy:.3f}")
        for each in calibration.bins
        if each.count
    ]
    return Table(("score", "entities", "confidence", "accuracy"), rows)


def comparison_table(result: Comparison) -> Table:
    """Two models' F1 in percent by type, and how sure the difference is."""
    rows = [(name, *_difference(difference)) for name, difference in result.per_type.items()]
    columns = ("type", "F1 of A", "F1 of B", "B - A", "95 % interval", "p", "entities")
    return Table(columns, rows, [("all", *_difference(result.overall))])


def percent(figure: float) -> str:
    """A figure in [0, 1] as percent."""
    return f"{100 * figure:.2f}"


def cells(scores: Scores) -> tuple[str, ...]:
    """Precision, recall and F1 in percent, no figures where there are no entities, and their number."""
    figures = (scores.precision, scores.recall, scores.f1)
    return (*(percent(figure) if scores.support else "-" for figure in figures), f"{scores.support:,}")


def _counts(*counts: int) -> tuple[str, ...]:
    return tuple(f"{count:,}" for count in counts)


def _difference(difference: Difference) -> tuple[str, ...]:
    interval = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
    p_value = "< 0.001" if difference.p_value < 0.001 else f"{difference.p_value:.3f}"
    figures = (percent(difference.f1_a), percent(difference.f1_b), f"{100 * difference.difference:+.2f}")
    return (*figures, interval, p_value, f"{difference.support:,}")
