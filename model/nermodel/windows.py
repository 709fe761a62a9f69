"""How a very long sentence is read: in windows, so that the memory of the network is bounded by theirs."""

from typing import NamedTuple

WINDOW_TOKENS = 2048  # a sentence of more is read in windows of so many
CONTEXT_TOKENS = 128  # more on either side, read for their sake; what the network says of them is dropped


class Window(NamedTuple):
    """A network's input by itself: tokens [start, end) of a sentence, to say what [keep_start, keep_end) of it are."""

    start: int
    end: int
    keep_start: int
    keep_end: int


def windows(length: int) -> list[Window]:
    """The windows of a sentence of `length` tokens, in order; what they keep is the sentence, each token once.

    One of at most WINDOW_TOKENS is a window by itself. The last window of a longer one may keep fewer.
    """
    return [
        Window(
            start=max(keep_start - CONTEXT_TOKENS, 0),
            end=min(keep_start + WINDOW_TOKENS + CONTEXT_TOKENS, length),
            keep_start=keep_start,
            keep_end=min(keep_start + WINDOW_TOKENS, length),
        )
        for keep_start in range(0, length, WINDOW_TOKENS)
    ]
