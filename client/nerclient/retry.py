"""When to try again."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient a client is with a server that it has reached before and that is UNAVAILABLE now.

    Waits grow from `first_s` by doubling up to `longest_s`, each shortened by up to a half at random so that many
    clients do not return at once. The defaults last some 15 s, which a restart of a server fits in.
    """

    attempts: int = 10  # failures in a row, with no answer between them, before the error is raised
    first_s: float = 0.1
    longest_s: float = 5.0

    def delay_s(self, failures: int) -> float | None:
        """Seconds to wait after that many failures in a row, or None to give up."""
        if failures >= self.attempts:
            return None
        longest_s = min(self.longest_s, self.first_s * 2.0 ** (failures - 1))
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 jitter, no secret
