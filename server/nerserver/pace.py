"""How long work takes, learnt from what ran: what cannot be answered in time is then refused at once."""

import math

MEMORY = 0.98  # of the last batch's weight, that the one before it has: some fifty batches count
FIRST_TOKENS, FIRST_S = 1000.0, 0.05  # what is believed before the first batch
LATE, EARLY = 0.1, 0.002  # weights of a reply that took longer than foretold, or less: some nine in ten take less
SLACK_S = 0.02  # by which any forecast may err
FORGET = 0.0005  # of the correction, at each reply
MOST_CORRECTION = 8.0


class Pace:
    """Forecasts of when work is done.

    A line through the batches of late, seconds over tokens, by least squares that forget (Ljung 1999, 11.2), times a
    correction that follows a high expectile of what replies took over what was foretold (Newey and Powell 1987).
    """

    def __init__(self) -> None:
        self._correction = 1.0
        # Sums over the batches: of 1, tokens, seconds, tokens squared, and tokens times seconds.
        self._sums = _terms(FIRST_TOKENS, FIRST_S)

    def learn(self, tokens: int, seconds: float) -> None:
        """Take note of a batch."""
        self._sums = [MEMORY * each + term for each, term in zip(self._sums, _terms(tokens, seconds), strict=True)]

    def seconds(self, tokens: float, most: int) -> float:
        """What so many tokens take in batches of at most `most`, the last one full or not."""
        batch_s, token_s = self._line()
        return self._correction * (math.ceil(tokens / most) * batch_s + tokens * token_s)

    def correct(self, foretold_s: float, took_s: float) -> None:
        """Take note of how long a reply took, or has taken when it was given up, for which so much was foretold."""
        ratio = (took_s + SLACK_S) / (foretold_s + SLACK_S)
        correction = self._correction * ratio ** (LATE if ratio > 1 else EARLY)
        self._correction = min(max(correction + FORGET * (1 - correction), 1 / MOST_CORRECTION), MOST_CORRECTION)

    def _line(self) -> tuple[float, float]:
        """What a batch costs by itself and what each token costs; neither is below nothing."""
        n, x, y, xx, xy = self._sums
        spread = xx - x * x / n
        token_s = (xy - x * y / n) / spread if spread > 1e-6 * xx else y / x
        token_s = min(max(token_s, 0.0), y / x)
        return max(y - token_s * x, 0.0) / n, token_s


def _terms(tokens: float, seconds: float) -> list[float]:
    return [1.0, tokens, seconds, tokens * tokens, tokens * seconds]
