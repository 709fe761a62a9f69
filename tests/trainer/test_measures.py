"""Partial matches, confusions and calibration, against counts by hand and seqeval."""

from itertools import accumulate

import pytest
from tests.trainer.spans import random_pairs

from nermodel.tags import Span
from nertrainer.evaluation import evaluate_spans
from nertrainer.measures import MEASURES, Confusion, calibrate, confusion, measures


def test_each_way_counts_as_it_says() -> None:
    """Of four gold entities one is right, one has another type, one other boundaries, one is missed; one spurious."""
    gold = [(Span(0, 2, "A"), Span(3, 4, "A"), Span(5, 8, "B"), Span(9, 10, "B"))]
    predicted = [(Span(0, 2, "A"), Span(3, 4, "B"), Span(6, 8, "B"), Span(12, 13, "A"))]
    found = measures(["A", "B"], gold, predicted)
    assert list(found) == list(MEASURES)
    assert {name: measure.overall.f1 for name, measure in found.items()} == pytest.approx(
        {"strict": 1 / 4, "exact": 2 / 4, "partial": 2.5 / 4, "ent_type": 2 / 4}
    )
    counts = found["partial"].overall
    assert (counts.correct, counts.partial, counts.missed, counts.spurious) == (2, 1, 1, 1)
    # Of type B alone the entity of other boundaries is half found, and the one that was called B is spurious.
    assert found["partial"].per_type["B"].precision == pytest.approx(0.5 / 2)
    assert found["partial"].per_type["B"].recall == pytest.approx(0.5 / 2)


@pytest.mark.parametrize("seed", range(20))
def test_strict_is_seqeval(seed: int) -> None:
    """Counted by boundaries and type, nervaluate and seqeval agree overall and by type."""
    sentences, predicted = random_pairs(seed, "ABC")
    strict = measures(["A", "B", "C"], [sentence.spans for sentence in sentences], predicted)["strict"]
    expected = evaluate_spans(sentences, predicted)
    assert strict.overall.f1 == pytest.approx(expected.overall.f1)
    for label, scores in expected.per_type.items():
        counts = strict.per_type[label]
        assert (counts.precision, counts.recall) == pytest.approx((scores.precision, scores.recall))


@pytest.mark.parametrize("seed", range(10))
def test_sentences_score_alike_as_one_long_sentence(seed: int) -> None:
    """What is counted does not depend on where sentences end, so that a long one can be counted in parts."""
    sentences, predicted = random_pairs(seed, "ABC")
    starts = [0, *accumulate(len(sentence.words) for sentence in sentences)]
    gold = [sentence.spans for sentence in sentences]
    long = [
        [
            Span(at + start, at + end, label)
            for at, spans in zip(starts, side, strict=False)
            for start, end, label in spans
        ]
        for side in (gold, predicted)
    ]
    assert measures("ABC", [long[0]], [long[1]]) == measures("ABC", gold, predicted)
    assert confusion("ABC", [long[0]], [long[1]]) == confusion("ABC", gold, predicted)


def test_nothing_annotated_scores_nothing() -> None:
    """Without labels every figure is zero."""
    assert all(measure.overall.f1 == 0 and not measure.per_type for measure in measures([], [()], [()]).values())


def test_confusions_are_those_by_hand() -> None:
    """A right one, one of another type, one of other boundaries on each side, one missed, one spurious."""
    gold = [
        (Span(0, 1, "A"), Span(2, 4, "B"), Span(6, 8, "A"), Span(9, 10, "B")),
        (),
    ]
    predicted = [
        (Span(0, 1, "A"), Span(2, 4, "A"), Span(7, 8, "B")),
        (Span(0, 2, "B"),),
    ]
    assert confusion("AB", gold, predicted) == Confusion(
        same_boundaries={"A": {"A": 1, "B": 0}, "B": {"A": 1, "B": 0}},
        gold_other_boundaries={"A": 1, "B": 0},
        missed={"A": 0, "B": 1},
        predicted_other_boundaries={"A": 0, "B": 1},
        spurious={"A": 0, "B": 1},
    )


def test_touching_is_not_overlapping() -> None:
    """Entities side by side share no token, so one is missed and the other spurious."""
    found = confusion("A", [(Span(0, 2, "A"),)], [(Span(2, 3, "A"),)])
    assert (found.missed, found.spurious) == ({"A": 1}, {"A": 1})


@pytest.mark.parametrize("seed", range(30))
def test_every_entity_is_counted_once(seed: int) -> None:
    """The counts of a gold type sum to its gold entities, those of a predicted type to its predicted ones."""
    sentences, predicted = random_pairs(seed, "ABC")
    gold = [sentence.spans for sentence in sentences]
    found = confusion("ABC", gold, predicted)
    for label in "ABC":
        of_gold = sum(found.same_boundaries[label].values()) + found.gold_other_boundaries[label] + found.missed[label]
        column = sum(row[label] for row in found.same_boundaries.values())
        of_predicted = column + found.predicted_other_boundaries[label] + found.spurious[label]
        assert of_gold == sum(span.label == label for spans in gold for span in spans)
        assert of_predicted == sum(span.label == label for spans in predicted for span in spans)


def test_the_error_is_that_worked_out_by_hand() -> None:
    """Two bins: 0.95 and 0.93 with one right of two, 0.15 and 0.11 with none: 0.44 and 0.13 off."""
    result = calibrate([(0.95, True), (0.15, False), (0.93, False), (0.11, False)])
    assert result.ece == pytest.approx((2 * abs(0.94 - 0.5) + 2 * abs(0.13 - 0.0)) / 4)
    assert [each.count for each in result.bins] == [0, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert result.bins[9].confidence == pytest.approx(0.94)
    assert result.bins[9].accuracy == 0.5
    assert (result.bins[0].confidence, result.bins[0].accuracy) == (None, None)


def test_distances_do_not_cancel_between_bins() -> None:
    """Too sure above and too shy below is an error, though the means agree."""
    assert calibrate([(0.9, False), (0.1, True)]).ece == pytest.approx(0.9)


@pytest.mark.parametrize(("score", "row"), [(0.0, 0), (0.0999, 0), (0.1, 1), (0.5, 5), (0.9, 9), (1.0, 9)])
def test_bins_are_ten_of_equal_width(score: float, row: int) -> None:
    """A score on a boundary of bins belongs to the upper bin, 1 to the last."""
    assert [each.count for each in calibrate([(score, True)]).bins].index(1) == row


def test_nothing_scored_has_no_error() -> None:
    """Without entities there is no figure, rather than a perfect one."""
    assert calibrate([]).ece is None
