"""The engine: one thread that owns the device, and the one model that serves."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import torch

from nermodel.checkpoint import Model
from nerserver.settings import Device

WARM_UP_TOKENS = (1, 2, 8, 32, 128)


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
    """Tags batches one after another with the model that is installed when a batch begins."""

    def __init__(self, threads: int) -> None:
        self.model: Model | None = None
        self.served: dict[str, Description] = {}  # by version, every model there ever was
        self._thread = ThreadPoolExecutor(1, "engine", initializer=torch.set_num_threads, initargs=(threads,))

    def install(self, model: Model) -> None:
        """Serve with this model from the next batch on."""
        self.served[model.version] = Description.of(model)
        self.model = model

    async def tag(self, sentences: Sequence[Sequence[str]]) -> tuple[list[list[int]], Model]:
        """Tag ids of each sentence as one batch, and the model that gave them all; a model must be installed."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._tag, sentences)

    def close(self) -> None:
        """Let the thread end when its batch is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _tag(self, sentences: Sequence[Sequence[str]]) -> tuple[list[list[int]], Model]:
        model = self.model
        assert model is not None
        return model.tag(sentences), model


def choose_device(name: Device) -> torch.device:
    """The device of that name; ValueError where it is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but PyTorch sees no CUDA device; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def warm_up(model: Model) -> None:
    """Tag made-up sentences of several lengths, so that no caller pays for first-time work."""
    for tokens in WARM_UP_TOKENS:
        model.tag([["Word"] * tokens] * 2)
