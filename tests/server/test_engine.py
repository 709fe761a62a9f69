"""The engine: the models it is given, one after another, in one thread."""

import asyncio
import random
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import MakeModel
from tests.server.conftest import POISON, FailingTagger

from nermodel import native
from nermodel.checkpoint import CheckpointError, load
from nermodel.native import NativeError
from nermodel.tagger import Answer, TorchTagger
from nerserver import engine
from nerserver.batcher import Batcher
from nerserver.engine import PROBATION_BATCHES, Engine, check_precision, choose_device, tagger_for, warm_up
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


async def test_a_new_tagger_that_fails_is_withdrawn(
    folder: Path, publish_tiny: Callable[[Path, int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The tagger before it answers the batch and serves again; the cause names no text."""
    withdrawn: list[str] = []
    engine = Engine(1, withdrawn.append)
    old = TorchTagger(load(folder / "000001.safetensors", CPU))
    new = FailingTagger(load(publish_tiny(folder, 2), CPU))
    for tagger in (old, new):
        engine.install(tagger)
    assert (await engine.tag([["Ada"]], [None]))[1] is new.model
    assert await engine.tag([["some", POISON]], [None]) == (old.tag([["some", POISON]], [None]), old.model)
    assert engine.tagger is old
    (cause,) = withdrawn
    assert cause.startswith("en/000002: KeyError (error ")
    assert cause.endswith(") at a batch that en/000001 answered")
    assert POISON not in cause + caplog.text
    engine.close()


async def test_a_poison_sentence_withdraws_no_tagger(folder: Path, publish_tiny: Callable[[Path, int], Path]) -> None:
    """A batch that the tagger before cannot answer either fails alone."""
    withdrawn: list[str] = []
    engine = Engine(1, withdrawn.append)
    for path in (folder / "000001.safetensors", publish_tiny(folder, 2)):
        engine.install(FailingTagger(load(path, CPU)))
    with pytest.raises(KeyError):
        await engine.tag([[POISON]], [None])
    assert (await engine.tag([["Ada"]], [None]))[1].version == "en/000002"
    assert not withdrawn
    engine.close()


async def test_probation_ends(folder: Path, publish_tiny: Callable[[Path, int], Path]) -> None:
    """After its first batches a tagger that fails stays, and the one before it is let go."""
    engine = Engine(1)
    engine.install(TorchTagger(load(folder / "000001.safetensors", CPU)))
    old = weakref.ref(engine.tagger)
    new = FailingTagger(load(publish_tiny(folder, 2), CPU))
    engine.install(new)
    for _ in range(PROBATION_BATCHES):
        assert old() is not None
        await engine.tag([["Ada"]], [None])
    assert old() is None
    with pytest.raises(KeyError):
        await engine.tag([[POISON]], [None])
    assert engine.tagger is new
    engine.close()


def test_a_slow_tagger_is_refused(make_model: MakeModel) -> None:
    """One that takes several times as long as the one that serves, with both figures; one as fast is not."""
    engine = Engine(1)
    usual, slow = (tagger_for(make_model(2, hidden=hidden), 1) for hidden in (10, 400))
    warm_up(slow)
    engine.check_speed(slow, 3.0)
    engine.install(tagger_for(make_model(1), 1))
    engine.check_speed(usual, 3.0)
    with pytest.raises(CheckpointError, match=r"takes .* ms where .*, more than max_slowdown = 3 times"):
        engine.check_speed(slow, 3.0)
    engine.check_speed(slow, 1e6)
    engine.close()


def test_a_busy_machine_costs_no_good_tagger(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that others slow down most of the time is not refused as slow."""
    engine = Engine(1)
    engine.install(tagger_for(make_model(1), 1))
    new = tagger_for(make_model(2), 1)
    tag, turns = new.tag, count()

    def tag_seldom_alone(*asked: Any) -> list[Answer]:
        if next(turns) % 30 < 29:
            time.sleep(0.005)  # what else runs has the processor
        return tag(*asked)

    monkeypatch.setattr(new, "tag", tag_seldom_alone)
    engine.check_speed(new, 3.0)
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
