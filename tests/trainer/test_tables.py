"""Figures as cells of text."""

from nermodel.tags import Span
from nertrainer.evaluation import Scores
from nertrainer.measures import calibrate, confusion
from nertrainer.tables import calibration_table, cells, confusion_table


def test_no_entities_have_no_figures() -> None:
    """A group without entities shows dashes, which nobody takes for a bad figure."""
    assert cells(Scores.of(0, 3, 0)) == ("-", "-", "-", "0")
    assert cells(Scores.of(1, 3, 1_000)) == ("33.33", "0.10", "0.20", "1,000")


def test_confusions_stand_under_what_was_predicted() -> None:
    """A row for each type of the file; below, what the model found beside them, under its type."""
    gold = [(Span(0, 1, "A"), Span(2, 4, "B"), Span(6, 7, "A"))]
    predicted = [(Span(0, 1, "B"), Span(3, 4, "A"), Span(8, 9, "B"))]
    table = confusion_table(confusion("AB", gold, predicted))
    assert table.columns[1:] == ("A", "B", "other boundaries", "missed")
    assert table.rows == [("A", "0", "1", "0", "1"), ("B", "0", "0", "1", "0")]
    assert table.last == [("other boundaries", "1", "0"), ("spurious", "0", "1")]


def test_bins_without_entities_are_left_out() -> None:
    """A row for each bin that holds entities, with their mean score and the share that is right."""
    table = calibration_table(calibrate([(0.95, True), (0.15, False), (0.93, False)]))
    assert table.rows == [("0.1 to 0.2", "1", "0.150", "0.000"), ("0.9 to 1.0", "2", "0.940", "0.500")]
