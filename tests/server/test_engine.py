"""The engine: the models it is given, one after another, in one thread."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nermodel.checkpoint import load
from nermodel.tagger import TorchTagger
from nerserver.batcher import Batcher
from nerserver.engine import Engine, choose_device, tagger_for, warm_up
from nerserver.policy import Budget

CPU = torch.device("cpu")
WORDS = ("Ada", "met", "Acme", "Inc.", "London", "\0", "😀", "", " ", "x" * 10_000, "unseen")


async def test_tag(folder: Path) -> None:
    """A batch comes back with the model that tagged all of it."""
    engine = Engine(1)
    tagger = TorchTagger(load(folder / "000001.safetensors", CPU))
    engine.install(tagger)
    assert engine.model is tagger.model
    sentences = [["Ada", "met"], ["London"]]
    assert await engine.tag(sentences, [None, 0]) == (tagger.tag(sentences, [None, 0]), tagger.model)
    engine.close()


async def test_install(folder: Path, publish_tiny: Callable[[Path, int], Path]) -> None:
    """The model installed last tags the next batch; the earlier ones are still described."""
    engine = Engine(1)
    for path in (folder / "000001.safetensors", publish_tiny(folder, 2)):
        engine.install(TorchTagger(load(path, CPU)))
    _, model = await engine.tag([["Ada"]], [None])
    assert model.version == "en/000002"
    assert list(engine.served) == ["en/000001", "en/000002"]
    assert engine.served["en/000001"].sha256 != model.sha256
    engine.close()


@pytest.mark.parametrize("budget", [Budget(1, 1), Budget(100, 7), Budget(4096, 128)])
async def test_batch_mates_do_not_matter(folder: Path, budget: Budget) -> None:
    """Through batches of any size, each sentence gets the answer that the tagger gives it alone."""
    engine = Engine(1)
    tagger = TorchTagger(load(folder / "000001.safetensors", CPU))
    engine.install(tagger)
    batcher = Batcher(engine.tag, budget, 100_000)
    random.seed(7)
    sentences = [random.choices(WORDS, k=random.randint(1, 20)) for _ in range(60)]
    serving = asyncio.create_task(batcher.serve())
    replies = await asyncio.gather(*(batcher.tag(sentences[row : row + 3], row) for row in range(0, 60, 3)))
    serving.cancel()
    assert [answer for reply in replies for answer in reply.answers] == [
        tagger.tag([words], [None])[0] for words in sentences
    ]
    engine.close()


def test_warm_up(folder: Path) -> None:
    """What runs a good model warms up."""
    tagger = tagger_for(load(folder / "000001.safetensors", CPU), threads=1)
    warm_up(tagger)
    assert tagger.model.version == "en/000001"
    assert tagger.name


def test_choose_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" takes what there is; CUDA that is asked for and absent is refused with what to do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(ValueError, match="--device cpu or auto"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
