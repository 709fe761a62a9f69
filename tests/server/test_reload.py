"""The reload: new checkpoints under load, bad ones refused, the newest good one served."""

import asyncio
import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from watchfiles._rust_notify import WatchfilesRustInternalError

from ner.v1 import tagger_pb2 as pb
from nermodel.checkpoint import load
from nermodel.tagger import Tagger, TorchTagger
from nerserver.reload import Reloader

CPU = torch.device("cpu")
SENTENCE = ["Ada", "met", "Acme", "Inc.", "in", "London", ",", "unseen", "Babbage"] * 3


class Serving:
    """What a reloader installs."""

    def __init__(self, folder: Path) -> None:
        self.models: list[str] = []
        self.reloader = Reloader(folder, self.prepare, self.install, poll_s=0.05)

    async def prepare(self, path: Path) -> Tagger:
        return TorchTagger(load(path, CPU))

    async def install(self, tagger: Tagger, path: Path) -> None:
        self.models.append(tagger.model.version)


@pytest.fixture
def serving(folder: Path) -> Serving:
    """A reloader of the folder."""
    return Serving(folder)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [truncated, bit_flipped])
async def test_bad_checkpoints_are_refused(
    serving: Serving,
    folder: Path,
    publish_tiny: Callable[[Path, int], Path],
    spoil: Callable[[Path], None],
) -> None:
    """A bad checkpoint is named once, in one line, and the one that serves goes on; a later good one is taken."""
    await serving.reloader.check()
    path = publish_tiny(folder, 2)
    spoil(path)
    (cause,) = await serving.reloader.check()
    assert cause.startswith(f"{path}: ")
    assert "\n" not in cause
    assert await serving.reloader.check() == []
    assert serving.models == ["en/000001"]
    assert (serving.reloader.reloads.loaded, serving.reloader.reloads.refused) == (1, 1)
    publish_tiny(folder, 3)
    await serving.reloader.check()
    assert serving.models == ["en/000001", "en/000003"]


async def test_the_newest_good_one_wins(
    serving: Serving, folder: Path, publish_tiny: Callable[[Path, int], Path]
) -> None:
    """When the newest is bad, the newest good one is taken, and none that is older than what serves."""
    await serving.reloader.check()
    for seed in (2, 3, 4):
        path = publish_tiny(folder, seed)
    truncated(path)
    await serving.reloader.check()
    await serving.reloader.check()
    assert serving.models == ["en/000001", "en/000003"]


async def test_a_bad_file_that_changes_is_tried_again(
    serving: Serving, folder: Path, publish_tiny: Callable[[Path, int], Path]
) -> None:
    """A checkpoint that was copied slowly is refused while it is half there and served once it is whole."""
    path = publish_tiny(folder, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    await serving.reloader.check()
    path.write_bytes(whole)
    await serving.reloader.check()
    assert serving.models == ["en/000001", "en/000002"]


async def test_a_failure_to_prepare_is_tried_again(serving: Serving) -> None:
    """What goes wrong beside a checkpoint, such as no memory left, is named once and tried again at every check."""
    failures: list[Exception] = [MemoryError("no\nmemory"), MemoryError("less"), OSError(5, "Input/output error")]

    async def prepare(path: Path) -> Tagger:
        if failures:
            raise failures.pop(0)
        return TorchTagger(load(path, CPU))

    serving.reloader._prepare = prepare
    causes = [await serving.reloader.check() for _ in range(4)]
    assert [len(each) for each in causes] == [1, 0, 1, 0]
    assert causes[0][0].endswith("000001.safetensors: MemoryError: no memory")
    assert serving.models == ["en/000001"]
    assert (serving.reloader.reloads.loaded, serving.reloader.reloads.refused) == (1, 2)


@pytest.mark.parametrize("failure", [None, OSError, WatchfilesRustInternalError])
async def test_follow(
    serving: Serving,
    folder: Path,
    publish_tiny: Callable[[Path, int], Path],
    until: Any,
    failure: type[Exception] | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Checkpoints are noticed and bad ones named, also where nothing can be watched or the folder is away a while."""
    if failure:

        def cannot_watch(*_: Any, **__: Any) -> Any:
            raise failure("no more watches")

        monkeypatch.setattr("nerserver.reload.awatch", cannot_watch)
    following = asyncio.create_task(serving.reloader.follow())
    await until(lambda: serving.models == ["en/000001"])
    (folder / "partial").write_bytes(b"x")
    os.rename(folder / "partial", folder / "000002.safetensors")
    await until(lambda: "000002.safetensors: not a whole" in caplog.text)
    publish_tiny(folder, 2)
    await until(lambda: serving.models[-1] == "en/000003")
    assert caplog.text.count("000002.safetensors") == 1
    if failure:
        away = folder.parent / "away"
        os.rename(folder, away)
        with pytest.raises(FileNotFoundError):
            await serving.reloader.check()
        os.rename(away, folder)
        publish_tiny(folder, 3)
        await until(lambda: serving.models[-1] == "en/000004")
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_start_beside_a_bad_checkpoint(serve: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server starts with the newest good checkpoint of its folder and names the bad one that is newer."""
    (folder / "000002.safetensors").touch()
    async with serve() as running:
        answer = await running.stub.Tag(pb.TagRequest(inputs=[pb.Input(text="Ada")]))
    assert answer.model_version == "en/000001"
    assert caplog.text.count("refused a checkpoint: ") == 1


async def test_first_checkpoint(
    serve: Any, tmp_path: Path, publish_tiny: Callable[[Path, int], Path], until: Any
) -> None:
    """A server of an empty folder serves as soon as the first checkpoint arrives."""
    (tmp_path / "de").mkdir()
    async with serve(model=tmp_path / "de") as running:
        publish_tiny(tmp_path / "de", 1)
        await until(lambda: running.server.engine.model)
        answer = await running.stub.Tag(pb.TagRequest(inputs=[pb.Input(text="Ada")]))
    assert answer.model_version == "de/000001"


async def test_the_old_model_is_freed(
    serve: Any, folder: Path, publish_tiny: Callable[[Path, int], Path], until: Any
) -> None:
    """Nothing holds on to the weights of a model that no longer serves."""
    request = pb.TagRequest(inputs=[pb.Input(text="Ada")])
    async with serve() as running:
        await running.stub.Tag(request)
        old = weakref.ref(running.server.engine.model.network)
        publish_tiny(folder, 2)
        await until(lambda: running.server.engine.model.version == "en/000002")
        await running.stub.Tag(request)
        gc.collect()
        assert old() is None


async def test_storm(serve: Any, folder: Path, publish_tiny: Callable[[Path, int], Path], until: Any) -> None:
    """While versions come one after another, no call fails and each answer is wholly that of the version it names."""
    answers: list[pb.TagResponse] = []
    stop = asyncio.Event()
    request = pb.TagRequest(
        inputs=[pb.Input(tokens=pb.Tokens(tokens=SENTENCE[row:])) for row in range(20)],
        options=pb.TagOptions(tags=True),
    )

    async def requests() -> Any:
        while not stop.is_set():
            yield request
            await asyncio.sleep(0)

    async def stream(running: Any) -> None:
        async for answer in running.stub.StreamTag(requests()):
            answers.append(answer)  # noqa: PERF401

    async def calls(running: Any) -> None:
        while not stop.is_set():
            answers.append(await running.stub.Tag(request))

    async with serve(max_batch_sentences=8, stream_window=100) as running:
        tasks = [asyncio.create_task(work(running)) for work in (stream, stream, stream, calls)]
        await until(lambda: answers)
        for seed in range(2, 7):
            newest = f"en/{publish_tiny(folder, seed).stem}"
            await until(lambda newest=newest: answers and answers[-1].model_version == newest)
        stop.set()
        await asyncio.gather(*tasks)
    versions = {answer.model_version for answer in answers}
    assert versions == {f"en/{number:06}" for number in range(1, 7)}
    references = {}
    for version in versions:
        model = load(folder / f"{version[3:]}.safetensors", CPU)
        references[version] = [bytes(model.tag([SENTENCE[row:]])[0]) for row in range(20)]
    assert len({tuple(tags) for tags in references.values()}) == 6
    for answer in answers:
        assert not answer.HasField("error")
        assert [outcome.tagged.tags.ids for outcome in answer.outcomes] == references[answer.model_version]
