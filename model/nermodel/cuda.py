"""A tagger that keeps everything on the device: weights, features of words, CRF.

A group of sentences costs one copy in (which words, how long each) and one out (tags, scores); in between the host
waits for nothing. It runs on any torch device, so that it can be tested without a GPU: what is CUDA's alone is pinned
memory, a stream, graphs and the kernel of `nermodel.kernels`.

Shapes: B rows (sentences, and empty ones up to a power of two), T tokens of the longest and a few more, N tokens of
all, S = T * B, C tags.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nermodel import windows
from nermodel.checkpoint import Model
from nermodel.crf import Potentials, candidates
from nermodel.decoding import decoder
from nermodel.graphs import Graphs
from nermodel.resident import ResidentNetwork, copied, pinned, power_of_two
from nermodel.tagger import Answer, Ask, Entity

Precision = Literal["float32", "float16"]
WORD_TYPES = 1 << 17  # in the table; one takes 640 bytes of the device where the LSTM reads 157 numbers of a word
GROUP_SENTENCES = 512  # that run together at most: while the device runs them, the host makes others ready
GROUP_TOKENS = 1 << 15  # likewise, with padding; one takes 10 kB of the device where 200 units are hidden
_SCORE = 4  # bytes
_Rows = npt.NDArray[np.int64]  # which sentences of a batch, or windows of a sentence
_logger = logging.getLogger(__name__)
_entity: Callable[[tuple[int, int, str, float | None]], Entity] = partial(tuple.__new__, Entity)


class _Staged(NamedTuple):
    """What the device is told of a group, on the host."""

    values: Tensor  # as `ResidentNetwork.emissions` reads them
    rows: int
    steps: int

    @property
    def size(self) -> int:
        """Of the place on the device for any group of as many rows and steps."""
        return (2 + self.steps) * self.rows


class _Flight(NamedTuple):
    """A group on its way back to the host."""

    rows: _Rows
    data: Tensor  # where it lands: scores, float32 [S], if there are any, then tags [N], all as bytes
    scores: int  # how many
    landed: torch.cuda.Event | None
    emissions: Tensor | None  # [T, B, C], where entities off the best path are asked for


class Pending(NamedTuple):
    """A batch under way."""

    sentences: Sequence[Sequence[str]]
    asks: Sequence[Ask]
    lengths: npt.NDArray[np.int64]
    is_scored: npt.NDArray[np.bool_]
    answers: list[Answer]
    flights: list[_Flight]


class CudaTagger:
    """Tags on the model's device: float32 exactly, float16 with weights and states rounded, so near ties may differ.

    Sentences of similar length go together. What does not fit into the device's memory goes in smaller groups; for one
    sentence that does not fit alone torch.cuda.OutOfMemoryError is raised.
    """

    pads = True

    def __init__(self, model: Model, precision: Precision = "float32", word_types: int = WORD_TYPES) -> None:
        """The table holds so many word types, no fewer than a window has tokens.

        ValueError where the model's weights are too large for the precision.
        """
        self.model = model
        self.name = f"{model.device.type} {precision}"
        self._network = ResidentNetwork(model, getattr(torch, precision), word_types)
        self._transitions = model.network.steps()
        self._decode = decoder(*self._transitions, model.card.temperature)
        self._begins = (self._transitions[0] > -torch.inf).cpu().numpy()  # [C]: these tags continue no entity
        self._labels = [tag[2:] for tag in model.tags]
        self._stream: torch.cuda.Stream | None = None
        self._graphs: Graphs | None = None
        if model.device.type == "cuda":
            self._stream = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(model.device))
            self._graphs = Graphs(self._stream) if self._decode.is_silent else None

    def tag(self, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> list[Answer]:
        """Answer each sentence (see Tagger)."""
        return self.result(self.submit(sentences, asks))

    @torch.no_grad()
    def submit(self, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> Pending:
        """Start a batch; others may be started before its result is taken, so that the device need not pause."""
        count = len(sentences)
        lengths = np.fromiter(map(len, sentences), np.int64, count)
        is_wide, is_scored = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        if asks.count(None) < count:
            is_wide[:] = list(map(bool, asks))
            is_scored[:] = [ask is not None for ask in asks]
        pending = Pending(sentences, asks, lengths, is_scored, [Answer(b"", [])] * count, [])
        for row in (lengths == 0).nonzero()[0].tolist():
            pending.answers[row] = Answer(b"", [])  # a list of its own
        is_long = lengths > windows.WINDOW_TOKENS
        order = lengths.argsort(kind="stable")
        order = order[lengths[order] > 0]
        with self._on_stream():
            for some in (order[~(is_wide | is_long)[order]], order[(is_wide & ~is_long)[order]]):
                for rows in self._groups(some, lengths):
                    self._by_halves(rows, partial(self._launch, pending))
            for row in is_long.nonzero()[0]:
                self._by_halves(np.array([row]), partial(self._launch_long, pending))
        return pending

    @torch.no_grad()
    def result(self, pending: Pending) -> list[Answer]:
        """The answers of a batch, when they are there."""
        with self._on_stream():
            for flight in pending.flights:
                if flight.landed is not None:
                    flight.landed.synchronize()
                self._read(pending, flight)
                if flight.emissions is not None:
                    every = np.arange(len(flight.rows))
                    self._by_halves(every, partial(self._widen, pending, flight, flight.emissions.transpose(0, 1)))
        return pending.answers

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _groups(self, rows: _Rows, lengths: npt.NDArray[np.int64]) -> Iterator[_Rows]:
        """Rows, in order of their lengths, that run together; the table of words holds those of any group."""
        most = min(GROUP_TOKENS, self._network.capacity)
        first = 0
        while first < len(rows):
            count = min(GROUP_SENTENCES, len(rows) - first)
            while count > 1 and power_of_two(count) * _padded(int(lengths[rows[first + count - 1]])) > most:
                count = (count + 1) // 2
            yield rows[first : first + count]
            first += count

    def _by_halves(self, rows: _Rows, run: Callable[[_Rows], None]) -> None:
        """Run rows together or, where the device's memory does not hold them, in parts."""
        try:
            run(rows)
            return
        except torch.cuda.OutOfMemoryError:
            pass  # what the failed run held is free only when this clause is left
        self._release()
        if len(rows) == 1:
            run(rows)
            return
        _logger.info("%d rows do not fit into the device's memory; going on with half as many", len(rows))
        self._by_halves(rows[: len(rows) // 2], run)
        self._by_halves(rows[len(rows) // 2 :], run)

    def _release(self) -> None:
        """Give back the memory of graphs, and what torch keeps for later."""
        if self._stream is not None:
            self._stream.synchronize()
        if self._graphs is not None:
            self._graphs.clear()
        torch.cuda.empty_cache()

    def _launch(self, pending: Pending, rows: _Rows) -> None:
        """Send a group on its way; all or none of it is asked for entities off the best path."""
        is_scored = bool(pending.is_scored[rows].any())
        staged = self._staged([pending.sentences[row] for row in rows.tolist()], pending.lengths[rows])
        if pending.asks[rows[0]]:
            place = copied(staged.values, staged.size, self.model.device)
            emissions = self._network.emissions(place, staged.rows, staged.steps)
            out = self._decoded(emissions, place, is_scored)
            self._land(pending, rows, out, is_scored, emissions[:, : len(rows)])
            return

        def work(place: Tensor) -> Tensor:
            return self._decoded(self._network.emissions(place, staged.rows, staged.steps), place, is_scored)

        if self._graphs is None:
            out = work(copied(staged.values, staged.size, self.model.device))
        else:
            out = self._graphs.run((staged.rows, staged.steps, is_scored), staged.values, staged.size, work)
        self._land(pending, rows, out, is_scored)

    def _launch_long(self, pending: Pending, rows: _Rows) -> None:
        """Send one sentence, which is read in windows, on its way."""
        sentence, ask = pending.sentences[rows[0]], pending.asks[rows[0]]
        parts = windows.windows(len(sentence))
        sizes = np.array([window.end - window.start for window in parts])
        kept: dict[int, Tensor] = {}  # [tokens that a window keeps, C]

        def read(numbers: _Rows) -> None:
            some = [parts[number] for number in numbers.tolist()]
            staged = self._staged([sentence[window.start : window.end] for window in some], sizes[numbers])
            place = copied(staged.values, staged.size, self.model.device)
            emissions = self._network.emissions(place, staged.rows, staged.steps)
            for column, (number, window) in enumerate(zip(numbers.tolist(), some, strict=True)):
                kept[number] = emissions[window.keep_start - window.start : window.keep_end - window.start, column]

        for numbers in self._groups(np.arange(len(parts)), sizes):
            self._by_halves(numbers, read)
        emissions = torch.cat([kept[number] for number in range(len(parts))]).unsqueeze(1)
        place = pinned(2, torch.int32, self.model.device)
        place[0], place[1] = 0, len(sentence)
        out = self._decoded(emissions, copied(place, 2, self.model.device), ask is not None)
        self._land(pending, rows, out, ask is not None, emissions if ask else None)

    def _staged(self, sentences: Sequence[Sequence[str]], lengths: npt.NDArray[np.int64]) -> _Staged:
        """Of sentences of at least one word each."""
        slots = self._network.slots(list(chain.from_iterable(sentences)))
        count, rows = len(sentences), power_of_two(len(sentences))
        staged = pinned(2 * rows + len(slots), torch.int32, self.model.device)
        values = staged.numpy()
        values[:count] = lengths.cumsum() - lengths
        values[count:rows] = len(slots)  # where empty rows begin
        values[rows : rows + count] = lengths
        values[rows + count : 2 * rows] = 0
        values[2 * rows :] = slots
        return _Staged(staged, rows, _padded(int(lengths.max())))

    def _decoded(self, emissions: Tensor, place: Tensor, is_scored: bool) -> Tensor:
        """Scores, if they are wanted, then tags, as bytes [4 S + S or S]; each row's behind those of the one before."""
        steps, rows, _ = emissions.shape
        size = steps * rows
        out = torch.empty(_SCORE * size * is_scored + size, dtype=torch.uint8, device=emissions.device)
        scores = out[:-size].view(torch.float32) if is_scored else None
        self._decode(emissions, place[:rows], place[rows : 2 * rows], out[-size:], scores)
        return out

    def _land(
        self, pending: Pending, rows: _Rows, out: Tensor, is_scored: bool, emissions: Tensor | None = None
    ) -> None:
        """Have what `_decoded` gave copied to the host."""
        scores = len(out) // (_SCORE + 1) if is_scored else 0
        data = pinned(_SCORE * scores + int(pending.lengths[rows].sum()), torch.uint8, self.model.device)
        data.copy_(out[: len(data)], non_blocking=True)
        landed = None if self._stream is None else self._stream.record_event()
        pending.flights.append(_Flight(rows, data, scores, landed, emissions))

    def _read(self, pending: Pending, flight: _Flight) -> None:
        """Write the answers of a group that has landed."""
        data, rows = flight.data.numpy(), flight.rows
        tags = data[_SCORE * flight.scores :]  # [N]
        begins = self._begins[tags]
        inside = tags != 0
        firsts = (begins & inside).nonzero()[0]
        inside[:-1] &= begins[1:]  # only the last token of each entity is left
        lasts = inside.nonzero()[0]
        stops = pending.lengths[rows].cumsum()  # of sentences
        owners = stops.searchsorted(firsts, "right")  # of each entity, its sentence
        shifts = (stops - pending.lengths[rows])[owners]
        scores: list[float | None] = [None] * len(firsts)
        if flight.scores:
            found = data[: _SCORE * flight.scores].view(np.float32)[firsts].tolist()
            is_asked = pending.is_scored[rows][owners].tolist()
            scores = [score if asked else None for score, asked in zip(found, is_asked, strict=True)]
        labels = map(self._labels.__getitem__, tags[firsts].tolist())
        spans = zip((firsts - shifts).tolist(), (lasts - shifts + 1).tolist(), labels, scores, strict=True)
        entities = list(map(_entity, spans))
        text = tags.tobytes()
        start = first = 0
        for row, stop, last in zip(rows.tolist(), stops.tolist(), firsts.searchsorted(stops).tolist(), strict=True):
            pending.answers[row] = Answer(text[start:stop], entities[first:last])
            start, first = stop, last

    def _widen(self, pending: Pending, flight: _Flight, emissions: Tensor, numbers: _Rows) -> None:
        """Put every entity that is probable enough in the place of the best path's, in some of a flight's sentences.

        emissions [B, T, C]; the sentences follow one another.
        """
        rows = flight.rows[numbers].tolist()
        for row in rows:
            pending.answers[row].entities.clear()
        some = emissions[numbers[0] : numbers[-1] + 1]
        lengths = torch.from_numpy(pending.lengths[rows]).to(some.device)
        potentials = Potentials(some, lengths, *self._transitions).tempered(self.model.card.temperature)
        least = torch.tensor([pending.asks[row] for row in rows], device=some.device)
        for number, start, end, tag, score in zip(*map(Tensor.tolist, candidates(potentials, least)), strict=True):
            pending.answers[rows[number]].entities.append(Entity(start, end, self._labels[tag], score))


def _padded(length: int) -> int:
    """A length rounded up, above 16 by a quarter at most, so that there are few."""
    step = max(4, 1 << max((length - 1).bit_length() - 3, 0))
    return -(-length // step) * step
