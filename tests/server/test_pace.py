"""The cost model of batches."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerserver.pace import Pace

BATCHES = st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-5, 10)), max_size=100)


def test_learns_what_a_batch_and_a_token_cost() -> None:
    """Batches of an exact cost are foretold exactly, soon after the cost has changed too."""
    pace = Pace()
    for batch_s, token_s in ((1e-3, 1e-5), (5e-3, 1e-6)):
        for number in range(500):
            tokens = 1 + number * 37 % 1000
            pace.learn(tokens, batch_s + tokens * token_s)
        assert pace.seconds(1000, 1000) == pytest.approx(batch_s + 1000 * token_s, rel=0.02)
        assert pace.seconds(2500, 1000) == pytest.approx(3 * batch_s + 2500 * token_s, rel=0.02)


def test_batches_of_one_size_tell_the_whole_cost() -> None:
    """Where every batch is alike, more of them take as many times as long."""
    pace = Pace()
    for _ in range(500):
        pace.learn(200, 0.01)
    assert pace.seconds(2000, 200) == pytest.approx(0.1, rel=0.05)


@given(BATCHES, st.floats(0, 1e6), st.floats(0, 1e6))
def test_more_takes_no_less(batches: list[tuple[int, float]], few: float, more: float) -> None:
    """Whatever was seen, a forecast is never below nothing and grows with the work."""
    pace = Pace()
    for tokens, seconds in batches:
        pace.learn(tokens, seconds)
    few, more = sorted((few, more))
    assert 0 <= pace.seconds(few, 1000) <= pace.seconds(more, 1000)


def test_forecasts_are_corrected_by_what_replies_took() -> None:
    """Where replies take longer than foretold by chance, forecasts grow until most replies keep them."""
    pace, chance = Pace(), random.Random(1)
    for _ in range(500):
        pace.learn(1000, 0.1)
    late = 0
    for number in range(3000):
        foretold_s, took_s = pace.seconds(1000, 1000), 0.1 * chance.uniform(1, 5)
        pace.correct(foretold_s, took_s)
        late += number >= 1000 and took_s > foretold_s
    assert 0.02 < late / 2000 < 0.2


def test_replies_that_cost_nothing_prove_nothing() -> None:
    """An idle server's quick replies do not make it believe that its queue is quick."""
    pace = Pace()
    before = pace.seconds(1000, 1000)
    for _ in range(1000):
        pace.correct(0.0, 0.0)
    assert pace.seconds(1000, 1000) == before
