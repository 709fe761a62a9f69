"""The four ways of counting, by hand and against seqeval."""

import pytest
from tests.trainer.spans import random_pairs

from nermodel.tags import Span
from nertrainer.evaluation import evaluate_spans
from nertrainer.measures import MEASURES, measures


def test_each_way_counts_as_it_says() -> None:
    """Of four gold entities one is right, one has another type, one other borders, one is missed; one is spurious."""
    gold = [(Span(0, 2, "A"), Span(3, 4, "A"), Span(5, 8, "B"), Span(9, 10, "B"))]
    predicted = [(Span(0, 2, "A"), Span(3, 4, "B"), Span(6, 8, "B"), Span(12, 13, "A"))]
    found = measures(["A", "B"], gold, predicted)
    assert list(found) == list(MEASURES)
    assert {name: measure.overall.f1 for name, measure in found.items()} == pytest.approx(
        {"strict": 1 / 4, "exact": 2 / 4, "partial": 2.5 / 4, "ent_type": 2 / 4}
    )
    counts = found["partial"].overall
    assert (counts.correct, counts.partial, counts.missed, counts.spurious) == (2, 1, 1, 1)
    # Of type B alone the entity of other borders is half found, and the one that was called B is spurious.
    assert found["partial"].per_type["B"].precision == pytest.approx(0.5 / 2)
    assert found["partial"].per_type["B"].recall == pytest.approx(0.5 / 2)


@pytest.mark.parametrize("seed", range(20))
def test_strict_is_seqeval(seed: int) -> None:
    """Counted by borders and type, nervaluate and seqeval agree overall and by type."""
    sentences, predicted = random_pairs(seed, "ABC")
    strict = measures(["A", "B", "C"], [sentence.spans for sentence in sentences], predicted)["strict"]
    expected = evaluate_spans(sentences, predicted)
    assert strict.overall.f1 == pytest.approx(expected.overall.f1)
    for label, scores in expected.per_type.items():
        counts = strict.per_type[label]
        assert (counts.precision, counts.recall) == pytest.approx((scores.precision, scores.recall))


def test_nothing_annotated_scores_nothing() -> None:
    """Without labels every figure is zero."""
    assert all(measure.overall.f1 == 0 and not measure.per_type for measure in measures([], [()], [()]).values())
