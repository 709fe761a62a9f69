"""How long batches take, learnt from those that ran: what cannot be answered in time is then refused at once."""

import math

MEMORY = 0.98  # of the last batch's weight, that the one before it has: some fifty batches count
FIRST_TOKENS, FIRST_S = 1000.0, 0.05  # what is believed before the first batch


class Pace:
    """A line through the batches of late, seconds over tokens, by least squares that forget (Ljung 1999, 11.2)."""

    def __init__(self) -> None:
        # Sums over the batches: their number, tokens, seconds, and the products of these.
        self._n, self._x, self._y = 0.0, 0.0, 0.0
        self._xx, self._xy = 0.0, 0.0
        self._add(FIRST_TOKENS, FIRST_S)

    def learn(self, tokens: int, seconds: float) -> None:
        """Take note of a batch."""
        for name in ("_n", "_x", "_y", "_xx", "_xy"):
            setattr(self, name, MEMORY * getattr(self, name))
        self._add(tokens, seconds)

    def seconds(self, tokens: float, most: int) -> float:
        """What so many tokens take in batches of at most `most`, the last one full or not."""
        batch_s, token_s = self._line()
        return math.ceil(tokens / most) * batch_s + tokens * token_s

    def _add(self, tokens: float, seconds: float) -> None:
        self._n += 1
        self._x += tokens
        self._y += seconds
        self._xx += tokens * tokens
        self._xy += tokens * seconds

    def _line(self) -> tuple[float, float]:
        """What a batch costs by itself and what each token costs; neither is below nothing."""
        spread = self._xx - self._x * self._x / self._n
        token_s = (self._xy - self._x * self._y / self._n) / spread if spread > 1e-6 * self._xx else self._y / self._x
        token_s = min(max(token_s, 0.0), self._y / self._x)
        return max(self._y - token_s * self._x, 0.0) / self._n, token_s
