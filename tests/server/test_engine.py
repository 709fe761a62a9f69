"""The engine: the models it is given, one after another, in one thread."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nermodel import native
from nermodel.checkpoint import CheckpointError, load
from nermodel.native import NativeError
from nermodel.tagger import TorchTagger
from nerserver import engine
from nerserver.batcher import Batcher
from nerserver.engine import Engine, check_precision, choose_device, tagger_for, warm_up
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


def without_kernel() -> list[str]:
    """As on a machine where it was not built."""
    raise NativeError("the native kernel is not built for this machine")


def test_without_the_native_kernel_torch_tags(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the answers are the same; int8 that is asked for is refused."""
    model = load(folder / "000001.safetensors", CPU)
    expected = tagger_for(model, 1, "float32").tag([["Ada", "met", "Acme"]], [None])
    monkeypatch.setattr(native, "levels", without_kernel)
    tagger = tagger_for(model, 1)
    assert tagger.name == "torch"
    assert tagger.tag([["Ada", "met", "Acme"]], [None]) == expected
    assert "tagging by plain torch" in caplog.text
    with pytest.raises(ValueError, match="precision int8 was asked for, but the native kernel is not built"):
        check_precision(CPU, "int8")


@pytest.mark.parametrize(("loss", "precision"), [(0.0, "int8"), (0.0009, "int8"), (0.0011, "float32")])
def test_int8_runs_where_dev_f1_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch, loss: float, precision: str
) -> None:
    """By the model's card, on a processor that is fast at it; without a figure it runs too."""
    try:
        native.levels()
    except NativeError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(engine, "is_int8_fast", lambda: True)
    model = load(folder / "000001.safetensors", CPU)
    metrics = {"dev_f1": 0.8, "dev_f1_int8": 0.8 - loss}
    model = replace(model, card=replace(model.card, metrics=metrics, known_answers=()))
    assert precision in tagger_for(model, 1).name


def test_a_tagger_that_errs_is_refused(folder: Path) -> None:
    """A model that does not give its known answers on this machine does not serve."""
    model = load(folder / "000001.safetensors", CPU)
    wrong = [(("Ada", "met", "Acme"), ("B-PER", "B-PER", "B-PER"))]
    with pytest.raises(CheckpointError, match="does not give the answers it was published with"):
        tagger_for(replace(model, card=replace(model.card, known_answers=wrong)), 1)


def test_choose_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" takes what there is; CUDA that is asked for and absent is refused with what to do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(ValueError, match="--device cpu or auto"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
