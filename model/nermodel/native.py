"""The native tagger: a compiled kernel that computes no padding and encodes each word type once."""

import ctypes
import platform
import struct
from array import array
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from math import nan
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nermodel.checkpoint import Model
from nermodel.kernel.build import FOLDER, LEVELS
from nermodel.network import LSTM_WEIGHTS
from nermodel.tagger import Answer, Ask, Entity
from nermodel.vocabulary import CASINGS, PAD, casing
from nermodel.windows import WINDOW_TOKENS, windows
from nermodel.word_types import WordTypes

Precision = Literal["float32", "int8"]
WORD_TYPES = 1 << 14  # in the table; one takes 6.5 kB where 200 units are hidden
_SPAN = struct.Struct("iiiif")  # Span of crf.h


class NativeError(OSError):
    """The kernel was not built, or cannot run here; the message is one line."""


class _Parameters(ctypes.Structure):
    """Parameters of kernel.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("word_dim", "char_filters", "char_width", "casings", "hidden", "layers")),
        *((name, ctypes.c_int32) for name in ("tags", "labels", "capacity", "threads", "int8")),
        ("temperature", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("words", "chars", "chars_bias", "casing", "lstm", "output")),
        *((name, ctypes.c_void_p) for name in ("output_bias", "start", "transitions", "end", "label_tags")),
    )


class NativeTagger:
    """Tags on the CPU with so many threads of its own; `word_types` bounds the table of encoded words.

    In float32 it gives the scores of `TorchTagger` but for the last digits; in int8 the LSTM's recurrent weights are
    rounded to that, and its states to 16 bits, so that near ties may fall otherwise. Raises NativeError where the
    kernel cannot run.
    """

    pads = False

    def __init__(self, model: Model, threads: int, precision: Precision, word_types: int = WORD_TYPES) -> None:
        self.model = model
        self._library = _loaded(levels()[-1])
        self.name = f"native {precision}, {self._library.kernel_instructions().decode()}"
        self._labels = model.labels
        self._types = WordTypes(word_types)
        parameters, self._kept = _parameters(model, threads, precision, word_types)
        self._kernel = ctypes.c_void_p()
        self._check(self._library.kernel_create(ctypes.byref(parameters), ctypes.byref(self._kernel)))

    def __del__(self) -> None:
        if getattr(self, "_kernel", None):
            self._library.kernel_free(self._kernel)

    def tag(self, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> list[Answer]:
        """As `Tagger.tag`."""
        full = [row for row, sentence in enumerate(sentences) if sentence]
        if len(full) < len(sentences):
            answers = [Answer(b"", []) for _ in sentences]
            for row, answer in zip(
                full, self.tag([sentences[row] for row in full], [asks[row] for row in full]), strict=True
            ):
                answers[row] = answer
            return answers
        if not sentences:
            return []
        lengths = array("i", map(len, sentences))
        wanted = array("f", [nan if ask is None else ask for ask in asks])
        if max(lengths) > WINDOW_TOKENS or sum(lengths) > self._types.capacity:
            self._emit(sentences, lengths)
            self._check(self._library.kernel_decode(self._kernel, len(lengths), _address(lengths), _address(wanted)))
        else:
            slots = self._encoded(list(chain.from_iterable(sentences)))
            self._check(
                self._library.kernel_tag(
                    self._kernel, len(lengths), _address(slots), _address(lengths), _address(wanted)
                )
            )
        return self._answers(lengths, asks)

    def _answers(self, lengths: Iterable[int], asks: Sequence[Ask]) -> list[Answer]:
        tags = ctypes.string_at(self._library.kernel_tags(self._kernel), sum(lengths))
        count = ctypes.c_int32()
        spans = self._library.kernel_spans(self._kernel, ctypes.byref(count))
        answers = []
        start = 0
        for length in lengths:
            answers.append(Answer(tags[start : start + length], []))
            start += length
        for row, first, end, label, score in _SPAN.iter_unpack(ctypes.string_at(spans, count.value * _SPAN.size)):
            answers[row].entities.append(Entity(first, end, self._labels[label], None if asks[row] is None else score))
        return answers

    def _emit(self, sentences: Sequence[Sequence[str]], lengths: Sequence[int]) -> None:
        """Emissions of all sentences, as many windows at once as the table holds words of."""
        self._check(self._library.kernel_begin(self._kernel, sum(lengths)))
        start = 0  # of the sentence, among all tokens
        group: list[tuple[Sequence[str], int, int, int]] = []  # words, what is kept of them, where it goes
        size = 0
        for sentence in sentences:
            for window in windows(len(sentence)):
                words = sentence[window.start : window.end]
                if group and size + len(words) > self._types.capacity:
                    self._emit_group(group)
                    group, size = [], 0
                keep = (window.keep_start - window.start, window.keep_end - window.start)
                group.append((words, *keep, start + window.keep_start))
                size += len(words)
            start += len(sentence)
        self._emit_group(group)

    def _emit_group(self, group: Sequence[tuple[Sequence[str], int, int, int]]) -> None:
        words, *columns = zip(*group, strict=True)
        slots = self._encoded(list(chain.from_iterable(words)))
        arrays = [array("i", map(len, words)), *(array("i", column) for column in columns)]
        addresses = map(_address, arrays)
        self._check(self._library.kernel_emit(self._kernel, len(words), _address(slots), *addresses))

    def _encoded(self, words: list[str]) -> npt.NDArray[np.int32]:
        """The slot of each word [N], encoded there; at most as many words as there are slots."""
        slots, new, places = self._types.slots(words)
        if new:
            try:
                self._encode(new, places)
            except BaseException:
                self._types.forget(new)  # else later batches would read what was never written
                raise
        return slots

    def _encode(self, words: Sequence[str], slots: Sequence[int]) -> None:
        """Fill the words' slots of the table."""
        vocabulary = self.model.vocabulary
        chars = vocabulary.char_ids(words)  # [U, L]
        ends = (chars != PAD).sum(axis=1).cumsum().astype(np.int32)
        rows = vocabulary.word_ids(words).astype(np.int32)
        flat = chars[chars != PAD].astype(np.int32)
        arrays = array("i", slots), rows, array("i", map(casing, words)), flat, ends
        self._check(self._library.kernel_fill(self._kernel, len(words), *map(_address, arrays)))

    def _check(self, message: bytes | None) -> None:
        if message is not None:
            raise NativeError(f"the native kernel failed: {message.decode()}")


def is_int8_fast() -> bool:
    """Whether this processor multiplies bytes faster than float32 numbers; NativeError where the kernel cannot run."""
    return bool(_loaded(levels()[-1]).kernel_has_dot4())


@cache
def levels() -> list[str]:
    """The kernel's builds that this processor can run, best last; NativeError where there is none."""
    best = _loaded("").kernel_level().decode()
    known = list(LEVELS.get(platform.machine(), [""]))
    return known[: known.index(best) + 1]


@cache
def _loaded(level: str) -> ctypes.CDLL:
    """The build of that name."""
    try:
        library = ctypes.CDLL(str(FOLDER / f"kernel{level}.so"))
    except OSError as error:
        raise NativeError(
            f"the native kernel is not built for this machine ({error}); build it by `python -m nermodel.kernel.build`"
        ) from error
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
        ("create", ctypes.c_char_p, [pointer, pointer]),
        ("free", None, [pointer]),
        ("fill", ctypes.c_char_p, [pointer, number, *[pointer] * 5]),
        ("tag", ctypes.c_char_p, [pointer, number, *[pointer] * 3]),
        ("begin", ctypes.c_char_p, [pointer, number]),
        ("emit", ctypes.c_char_p, [pointer, number, *[pointer] * 5]),
        ("decode", ctypes.c_char_p, [pointer, number, *[pointer] * 2]),
        ("tags", pointer, [pointer]),
        ("spans", pointer, [pointer, pointer]),
        ("instructions", ctypes.c_char_p, []),
        ("level", ctypes.c_char_p, []),
        ("has_dot4", number, []),
    ):
        function = getattr(library, f"kernel_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _address(values: "array[int] | array[float] | npt.NDArray[np.int32]") -> int:
    return values.buffer_info()[0] if isinstance(values, array) else int(values.__array_interface__["data"][0])


def _parameters(model: Model, threads: int, precision: Precision, word_types: int) -> tuple[_Parameters, list[Tensor]]:
    """What the kernel is made of, and the tensors that it points to."""
    network, card = model.network, model.card
    kept: list[Tensor] = []

    def address(tensor: Tensor) -> int:
        kept.append(tensor.detach().contiguous())
        return kept[-1].data_ptr()

    lstm = []
    for layer in range(card.network.layers):
        for suffix in ("", "_reverse"):
            inputs, states, *biases = (getattr(network.lstm, f"{name}_l{layer}{suffix}") for name in LSTM_WEIGHTS)
            lstm += [address(inputs), address(states), address(sum(biases))]
    start, transitions, end = network.steps()
    tags = {tag: row for row, tag in enumerate(model.tags)}
    label_tags = [[tags.get(f"{prefix}-{label}", -1) for prefix in "BIES"] for label in model.labels]
    parts, bias = network.char_parts()
    return _Parameters(
        word_dim=card.network.word_dim,
        char_filters=card.network.char_filters,
        char_width=card.network.char_width,
        casings=CASINGS,
        hidden=card.network.hidden,
        layers=card.network.layers,
        tags=len(model.tags),
        labels=len(model.labels),
        capacity=word_types,
        threads=threads,
        int8=precision == "int8",
        temperature=card.temperature,
        words=address(network.word.weight),
        chars=address(parts),
        chars_bias=address(bias),
        casing=address(network.casing.weight),
        lstm=address(torch.tensor(lstm)),
        output=address(network.output.weight),
        output_bias=address(network.output.bias),
        start=address(start),
        transitions=address(transitions),
        end=address(end),
        label_tags=address(torch.tensor(label_tags, dtype=torch.int32)),
    ), kept
