"""Where a long sentence is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nermodel.windows import CONTEXT_TOKENS, WINDOW_TOKENS, Window, windows


@given(st.integers(0, 5 * WINDOW_TOKENS))
def test_every_token_is_kept_once_and_in_order(length: int) -> None:
    """What the windows keep, one after another, is the sentence."""
    kept = [token for window in windows(length) for token in range(window.keep_start, window.keep_end)]
    assert kept == list(range(length))


@given(st.integers(1, 5 * WINDOW_TOKENS))
def test_what_is_kept_has_its_context(length: int) -> None:
    """A window reaches CONTEXT_TOKENS beyond what it keeps, or to the end of the sentence, and is bounded."""
    for start, end, keep_start, keep_end in windows(length):
        assert keep_start < keep_end
        assert start == 0 or keep_start - start == CONTEXT_TOKENS
        assert end == length or end - keep_end == CONTEXT_TOKENS
        assert end - start <= WINDOW_TOKENS + 2 * CONTEXT_TOKENS


@pytest.mark.parametrize("length", [1, 2, WINDOW_TOKENS])
def test_a_sentence_of_one_window_is_read_whole(length: int) -> None:
    """Only what is longer than a window is cut."""
    assert windows(length) == [Window(0, length, 0, length)]


def test_a_longer_one_is_cut() -> None:
    """One token too many makes a second window, which sees the end of the first."""
    assert windows(WINDOW_TOKENS + 1) == [
        Window(0, WINDOW_TOKENS + 1, 0, WINDOW_TOKENS),
        Window(WINDOW_TOKENS - CONTEXT_TOKENS, WINDOW_TOKENS + 1, WINDOW_TOKENS, WINDOW_TOKENS + 1),
    ]
