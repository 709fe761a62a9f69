"""Work of the device that comes again in the same shape, recorded as CUDA graphs: one launch in place of hundreds."""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nermodel.resident import copied

GRAPHS = 128  # shapes that are recorded at most
Shape = tuple[int, int, bool]
_logger = logging.getLogger(__name__)


class _Graph(NamedTuple):
    """Work between two places that stay where they are."""

    place: Tensor
    result: Tensor
    replay: Callable[[], None]


class Graphs:
    """Runs work on a stream of its own, and records what comes a second time, when all that it needs is compiled."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[Shape, _Graph] = {}
        self._seen: set[Shape] = set()
        self._has_failed = False

    def run(self, shape: Shape, staged: Tensor, size: int, work: Callable[[Tensor], Tensor]) -> Tensor:
        """What `work` makes of a place [size] on the device that begins with what is staged on the host.

        Of one shape the work and the size are always the same; the result is overwritten when the shape comes again.
        """
        if shape in self._seen and shape not in self._graphs and len(self._graphs) < GRAPHS and not self._has_failed:
            self._record(shape, size, work)
        self._seen.add(shape)
        graph = self._graphs.get(shape)
        if graph is None:
            return work(copied(staged, size, self._stream.device))
        graph.place[: len(staged)].copy_(staged, non_blocking=True)
        graph.replay()
        return graph.result

    def clear(self) -> None:
        """Forget what was recorded and free its memory; the stream must have run dry."""
        self._graphs.clear()
        self._seen.clear()
        self._pool = torch.cuda.graph_pool_handle()

    def _record(self, shape: Shape, size: int, work: Callable[[Tensor], Tensor]) -> None:
        """Record work, or where that fails never any again."""
        try:
            place = torch.zeros(size, dtype=torch.int32, device=self._stream.device)
            result, replay = self._captured(lambda: work(place))
        except RuntimeError as error:
            self._has_failed = True
            _logger.warning("CUDA graphs are not recorded from here on: %s", str(error).split("\n", 1)[0])
        else:
            self._graphs[shape] = _Graph(place, result, replay)

    def _captured(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Where the result of the work will be, and what runs it."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do, such as loading the next model, does not disturb it.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            result = work()
        return result, graph.replay
