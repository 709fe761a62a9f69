"""What is taken for what, against a count by hand."""

import pytest
from tests.trainer.spans import random_pairs

from nermodel.tags import Span
from nertrainer.confusion import Confusion, confusion


def test_counts_are_those_by_hand() -> None:
    """A right one, one of another type, one of other borders on each side, one missed, one spurious."""
    gold = [
        (Span(0, 1, "A"), Span(2, 4, "B"), Span(6, 8, "A"), Span(9, 10, "B")),
        (),
    ]
    predicted = [
        (Span(0, 1, "A"), Span(2, 4, "A"), Span(7, 8, "B")),
        (Span(0, 2, "B"),),
    ]
    assert confusion("AB", gold, predicted) == Confusion(
        same_borders={"A": {"A": 1, "B": 0}, "B": {"A": 1, "B": 0}},
        gold_other_borders={"A": 1, "B": 0},
        missed={"A": 0, "B": 1},
        predicted_other_borders={"A": 0, "B": 1},
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
        of_gold = sum(found.same_borders[label].values()) + found.gold_other_borders[label] + found.missed[label]
        column = sum(row[label] for row in found.same_borders.values())
        of_predicted = column + found.predicted_other_borders[label] + found.spurious[label]
        assert of_gold == sum(span.label == label for spans in gold for span in spans)
        assert of_predicted == sum(span.label == label for spans in predicted for span in spans)
