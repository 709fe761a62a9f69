"""The reliability table and its error."""

import pytest

from nertrainer.calibration import calibrate


def test_the_error_is_that_worked_out_by_hand() -> None:
    """Two bins: 0.95 and 0.93 with one right of two, 0.15 and 0.11 with none: 0.44 and 0.13 off."""
    result = calibrate([(0.95, True), (0.15, False), (0.93, False), (0.11, False)])
    assert result.ece == pytest.approx((2 * abs(0.94 - 0.5) + 2 * abs(0.13 - 0.0)) / 4)
    assert [each.count for each in result.bins] == [0, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert result.bins[9].mean_score == pytest.approx(0.94)
    assert result.bins[9].share_right == 0.5
    assert (result.bins[0].mean_score, result.bins[0].share_right) == (None, None)


def test_distances_do_not_cancel_between_bins() -> None:
    """Too sure above and too shy below is an error, though the means agree."""
    assert calibrate([(0.9, False), (0.1, True)]).ece == pytest.approx(0.9)


@pytest.mark.parametrize(("score", "row"), [(0.0, 0), (0.0999, 0), (0.1, 1), (0.5, 5), (0.9, 9), (1.0, 9)])
def test_bins_are_ten_of_equal_width(score: float, row: int) -> None:
    """A score on a border belongs to the upper bin, 1 to the last."""
    assert [each.count for each in calibrate([(score, True)]).bins].index(1) == row


def test_nothing_scored_has_no_error() -> None:
    """Without entities there is no figure, rather than a perfect one."""
    assert calibrate([]).ece is None
