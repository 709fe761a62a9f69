"""Four ways to count an entity as found, by nervaluate (after SemEval-2013 task 9)."""

from collections.abc import Sequence
from dataclasses import dataclass

from nervaluate import Evaluator

from nermodel.tags import Span

MEASURES = {  # with what must be right
    "strict": "borders and type",
    "exact": "borders, whatever the type",
    "partial": "borders, an overlap counts half",
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
    """One way of counting."""

    overall: Counts
    per_type: dict[str, Counts]


def measures(
    labels: Sequence[str], gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]
) -> dict[str, Measure]:
    """Each of MEASURES over sentences; no span has a label outside `labels`, and each of those is in the gold."""
    if not labels:
        return {name: Measure(Counts(0.0, 0.0, 0.0, 0, 0, 0, 0, 0), {}) for name in MEASURES}
    result = Evaluator(_entities(gold), _entities(predicted), list(labels), loader="dict").evaluate()
    return {
        name: Measure(
            _counts(result["overall"][name]), {label: _counts(result["entities"][label][name]) for label in labels}
        )
        for name in MEASURES
    }


def _entities(sentences: Sequence[Sequence[Span]]) -> list[list[dict[str, str | int]]]:
    """As nervaluate reads them: the end is the last token."""
    return [[{"label": span.label, "start": span.start, "end": span.end - 1} for span in spans] for spans in sentences]


def _counts(result: object) -> Counts:
    return Counts(**{name: getattr(result, name) for name in Counts.__dataclass_fields__})
