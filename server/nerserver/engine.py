"""The engine: one thread that owns the device, and the one tagger that serves."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import torch

from nermodel.checkpoint import CheckpointError, Model
from nermodel.cuda import CudaTagger
from nermodel.native import NativeError, NativeTagger, is_int8_fast
from nermodel.tagger import Answer, Ask, Tagger, TorchTagger
from nerserver.errors import log_failure
from nerserver.settings import Device, Precision

logger = logging.getLogger(__name__)
WARM_UP_TOKENS = (1, 2, 8, 32, 128)
INLINE_TOKENS = 64  # of a batch that the native kernel answers sooner than a thread would begin with it
INT8_LOSS = 0.001  # of dev F1, that int8 may cost
PROBATION_BATCHES = 32  # that a new tagger answers before the one it replaces is let go
TIMED = [["Word"] * 32] * 2
LEAST_ROUNDS = 5  # of tagging them, to time a tagger
TIMING_S = 1.0  # that it has to show its speed: where the machine is busy, few of its times are its own


@dataclass(frozen=True)
class Description:
    """What is told of a model, also when its weights are gone."""

    name: str
    version: str
    labels: tuple[str, ...]
    tags: tuple[str, ...]
    metrics: Mapping[str, float]
    created: str  # ISO 8601
    sha256: str

    @classmethod
    def of(cls, model: Model) -> Self:
        """Of a model."""
        return cls(
            model.name,
            model.version,
            model.labels,
            model.tags,
            model.card.metrics,
            model.card.created,
            model.sha256,
        )


class Engine:
    """Tags batches one after another with the tagger that is installed when a batch begins.

    A new tagger that fails at one of its first batches, where the one before it does not, gives way to that one again;
    `withdraw` is then told the cause.
    """

    def __init__(self, threads: int, withdraw: Callable[[str], None] = lambda cause: None) -> None:
        self.tagger: Tagger | None = None
        self.served: dict[str, Description] = {}  # by version, every model there ever was
        self.inline_tokens = INLINE_TOKENS
        self._withdraw = withdraw
        self._before: Tagger | None = None  # what the tagger replaced, while it is on probation
        self._probation = 0  # batches left
        self._tagging = threading.Lock()  # of a tagger that serves: the loader times it too
        self._thread = ThreadPoolExecutor(1, "engine", initializer=torch.set_num_threads, initargs=(threads,))

    @property
    def model(self) -> Model | None:
        """The model that serves."""
        return None if self.tagger is None else self.tagger.model

    def install(self, tagger: Tagger) -> None:
        """Serve with this tagger from the next batch on."""
        self.served[tagger.model.version] = Description.of(tagger.model)
        self._before, self.tagger, self._probation = self.tagger, tagger, PROBATION_BATCHES

    async def tag(self, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> tuple[list[Answer], Model]:
        """Answer each sentence, all as one batch, and say which model did; a tagger must be installed."""
        tagger, before = self.tagger, self._before
        assert tagger is not None
        try:
            answers = await self._run(tagger, sentences, asks)
        except Exception as error:
            if before is None:
                raise
            answers = await self._run(before, sentences, asks)  # where this fails too, the batch is at fault
            if self.tagger is tagger:
                self.tagger, self._before = before, None
                cause = f"{type(error).__name__} (error {log_failure(error).error_id})"
                self._withdraw(f"{tagger.model.version}: {cause} at a batch that {before.model.version} answered")
            return answers, before.model
        if before is not None and self.tagger is tagger:
            self._probation -= 1
            if not self._probation:
                self._before = None
        return answers, tagger.model

    def check_speed(self, tagger: Tagger, max_slowdown: float) -> None:
        """CheckpointError where a tagger takes so many times longer than the one that serves; for the loader's thread.

        Each takes its turn at the same sentences, so that whatever else the machine does slows both.
        """
        serving = self.tagger
        if serving is None:
            return
        took, usual = math.inf, math.inf
        end = time.perf_counter() + TIMING_S
        rounds = 0
        while rounds < LEAST_ROUNDS or (took > max_slowdown * usual and time.perf_counter() < end):
            with self._tagging:
                usual = min(usual, _timed(serving))
            took = min(took, _timed(tagger))
            rounds += 1
        if took > max_slowdown * usual:
            raise CheckpointError(
                f"{tagger.model.version}: takes {1000 * took:.2f} ms where the one that serves takes "
                f"{1000 * usual:.2f}, more than max_slowdown = {max_slowdown:g} times as much"
            )

    def close(self) -> None:
        """Let the thread end when its batch is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, tagger: Tagger, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> list[Answer]:
        is_short = isinstance(tagger, NativeTagger) and sum(map(len, sentences)) <= self.inline_tokens
        if is_short and not self._tagging.locked():
            return self._tag(tagger, sentences, asks)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._tag, tagger, sentences, asks)

    def _tag(self, tagger: Tagger, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> list[Answer]:
        with self._tagging:
            return tagger.tag(sentences, asks)


def choose_device(name: Device) -> torch.device:
    """The device of that name; ValueError where it is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but PyTorch sees no CUDA device; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def check_precision(device: torch.device, precision: Precision) -> None:
    """ValueError where the device does not compute so."""
    wrong = {"cuda": "int8", "cpu": "float16"}
    if precision == wrong[device.type]:
        raise ValueError(f"precision {precision} is not for the device {device.type}; use auto or float32")
    if precision == "int8":
        try:
            is_int8_fast()
        except NativeError as error:
            raise ValueError(f"precision int8 was asked for, but {error}") from error


def tagger_for(model: Model, threads: int, precision: Precision = "auto") -> Tagger:
    """The fastest that runs a model on its device, on a CPU with so many threads, and gives its known answers.

    Raises CheckpointError where none does, and NativeError where int8 was asked for and cannot run.
    """
    if model.device.type == "cuda":
        tagger: Tagger = CudaTagger(model, "float16" if precision == "float16" else "float32")
    else:
        tagger = _cpu_tagger(model, threads, precision)
    if not _gives_known_answers(tagger):
        raise CheckpointError(
            f"{model.version}: run by {tagger.name} it does not give the answers it was published with"
        )
    return tagger


def _cpu_tagger(model: Model, threads: int, precision: Precision) -> Tagger:
    try:
        if precision == "int8" or (precision == "auto" and is_int8_fast() and _int8_loss(model) <= INT8_LOSS):
            tagger = NativeTagger(model, threads, "int8")
            if precision == "int8" or _gives_known_answers(tagger):
                return tagger
            logger.warning("%s does not give its known answers in int8, so it runs in float32", model.version)
        return NativeTagger(model, threads, "float32")
    except NativeError as error:
        if precision == "int8":
            raise
        logger.warning("tagging by plain torch, which is slower: %s", error)
        return TorchTagger(model)


def _int8_loss(model: Model) -> float:
    """By how much int8 lowers dev F1, if that was measured."""
    metrics = model.card.metrics
    return metrics.get("dev_f1", 0.0) - metrics["dev_f1_int8"] if "dev_f1_int8" in metrics else 0.0


def _gives_known_answers(tagger: Tagger) -> bool:
    model = tagger.model
    sentences = [words for words, _ in model.card.known_answers]
    answers = tagger.tag(sentences, [None] * len(sentences))
    return all(
        tuple(model.tags[tag] for tag in answer.tags) == tags
        for answer, (_, tags) in zip(answers, model.card.known_answers, strict=True)
    )


def warm_up(tagger: Tagger) -> None:
    """Tag made-up sentences of several lengths, so that no caller pays for first-time work."""
    for tokens in WARM_UP_TOKENS:
        for ask in (None, None, 0.0, 0.0):  # a CUDA graph is recorded at the second sight of a shape
            tagger.tag([["Word"] * tokens] * 2, [ask] * 2)


def _timed(tagger: Tagger) -> float:
    """Seconds that a warmed-up tagger takes."""
    began = time.perf_counter()
    tagger.tag(TIMED, [None] * len(TIMED))
    return time.perf_counter() - began
