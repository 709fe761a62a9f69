"""Whether scores mean what they say: of the entities scored about 0.8, about 80 % should be right."""

from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The entities whose score lies in [low, high), for the last bin [low, high]."""

    low: float
    high: float
    count: int
    mean_score: float | None  # None where there are none, as the next
    share_right: float | None


@dataclass(frozen=True)
class Calibration:
    """The reliability table, and the expected calibration error (Guo et al. 2017, arXiv:1706.04599) over its bins."""

    ece: float | None  # the mean distance of score and share right, by count; None of no entities
    bins: tuple[Bin, ...]


def calibrate(scored: Sequence[tuple[float, bool]]) -> Calibration:
    """Of the score in [0, 1] of each predicted entity, and whether it is right; bins are of equal width."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for score, right in scored:
        members[min(int(score * BINS), BINS - 1)].append((score, right))
    bins = tuple(_bin(row, found) for row, found in enumerate(members))
    distance = sum(abs(sum(score - right for score, right in found)) for found in members)
    return Calibration(distance / len(scored) if scored else None, bins)


def _bin(row: int, found: Sequence[tuple[float, bool]]) -> Bin:
    low, high, count = row / BINS, (row + 1) / BINS, len(found)
    if not found:
        return Bin(low, high, 0, None, None)
    return Bin(low, high, count, sum(score for score, _ in found) / count, sum(right for _, right in found) / count)
