"""The reload: new checkpoints under load, bad ones refused, the newest good one served."""

import asyncio
import gc
import os
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from watchfiles._rust_notify import WatchfilesRustInternalError

from ner.v1 import tagger_pb2 as pb
from nermodel.checkpoint import load
from nermodel.tagger import Tagger, TorchTagger
from nerserver.engine import PROBATION_BATCHES
from nerserver.errors import NotFoundError, RefusedError, StartError
from nerserver.reload import PIN, Reloader

CPU = torch.device("cpu")
SENTENCE = ["Ada", "met", "Acme", "Inc.", "in", "London", ",", "unseen", "Babbage"] * 3


class Serving:
    """What a reloader installs."""

    def __init__(self, folder: Path) -> None:
        self.models: list[str] = []
        self.counted: Counter[str] = Counter()
        self.reloader = Reloader(folder, self.prepare, self.install, 0.05, lambda result: self.counted.update([result]))

    async def check(self) -> list[str]:
        """Check, and tell what was installed in all."""
        await self.reloader.check()
        return self.models

    async def prepare(self, path: Path) -> Tagger:
        return TorchTagger(load(path, CPU))

    def install(self, tagger: Tagger, path: Path) -> None:
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


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


@pytest.mark.parametrize("spoil", [truncated, bit_flipped, link_to_nothing])
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
    assert serving.counted == {"loaded": 1, "refused": 1}
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
    assert serving.counted == {"loaded": 1, "refused": 2}


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


async def test_a_pin_holds(folder: Path, publish_tiny: Callable[[Path, int], Path]) -> None:
    """Every process that follows the folder keeps to the pinned version, also one that starts; then to the newest."""
    for seed in (2, 3):
        publish_tiny(folder, seed)
    here, there = Serving(folder), Serving(folder)
    for each in (here, there):
        assert await each.check() == ["en/000003"]
    assert await here.reloader.pin(2) == "en/000002"
    publish_tiny(folder, 4)
    for each in (here, there):
        assert await each.check() == ["en/000003", "en/000002"]
    assert await Serving(folder).check() == ["en/000002"]
    assert await here.reloader.unpin() == "en/000004"
    assert (await there.check())[2:] == ["en/000004"]


async def test_a_changed_pin_is_noticed(serving: Serving, folder: Path, publish_tiny: Any, until: Any) -> None:
    """Who follows the folder serves what another process pins there."""
    publish_tiny(folder, 2)
    following = asyncio.create_task(serving.reloader.follow())
    await until(lambda: serving.models == ["en/000002"])
    await Serving(folder).reloader.pin(1)
    await until(lambda: serving.models[-1] == "en/000001")
    assert serving.models == ["en/000002", "en/000001"]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize(
    ("pin", "named"),
    [
        (b"7\n", "version 7 is not in the folder"),
        (b"3", "000003.safetensors: not a whole"),
        (b"", "not a version's number"),
        (b"-2", "not a version's number"),
        (b"\xff" * 5000, "not a version's number"),
        (None, "not a version's number"),
    ],
)
async def test_a_bad_pin(
    serving: Serving,
    folder: Path,
    publish_tiny: Callable[[Path, int], Path],
    caplog: pytest.LogCaptureFixture,
    pin: bytes | None,
    named: str,
) -> None:
    """What serves goes on where a pin names no good version, is damaged or a pipe; who starts then takes the newest."""
    publish_tiny(folder, 2)
    await serving.check()
    truncated(publish_tiny(folder, 3))
    publish_tiny(folder, 4)
    if pin is None:
        os.mkfifo(folder / PIN)
    else:
        (folder / PIN).write_bytes(pin)
    causes = [*await serving.reloader.check(), *await serving.reloader.check()]
    assert serving.models[-1] == "en/000002"
    assert len([cause for cause in (*causes, *caplog.messages) if named in cause]) == 1
    assert await Serving(folder).check() == ["en/000004"]


async def test_a_refused_version_is_not_pinned(
    serving: Serving, folder: Path, publish_tiny: Callable[[Path, int], Path]
) -> None:
    """The pin stays as it was and what serves goes on; asked for again, the version is tried again."""
    path = publish_tiny(folder, 2)
    data = path.read_bytes()
    truncated(path)
    await serving.check()
    await serving.reloader.pin(1)
    with pytest.raises(RefusedError, match="not a whole safetensors file"):
        await serving.reloader.pin(2)
    with pytest.raises(NotFoundError):
        await serving.reloader.pin(3)
    assert (folder / PIN).read_text() == "1\n"
    assert await serving.check() == ["en/000001"]
    (folder / "whole").write_bytes(data)
    os.rename(folder / "whole", path)
    assert await serving.reloader.pin(2) == "en/000002"


async def test_roll_back_twice(serving: Serving, folder: Path, publish_tiny: Callable[[Path, int], Path]) -> None:
    """Each goes one version further back, and the newest does not come again until the pin is lifted."""
    await serving.check()
    for seed in (2, 3):
        publish_tiny(folder, seed)
        await serving.check()
    assert [await serving.reloader.roll_back() for _ in range(2)] == ["en/000002", "en/000001"]
    await serving.check()
    with pytest.raises(NotFoundError, match="no other version has served"):
        await serving.reloader.roll_back()
    assert serving.models[2:] == ["en/000003", "en/000002", "en/000001"]
    assert await serving.reloader.unpin() == "en/000003"
    assert await serving.reloader.roll_back() == "en/000001"


@pytest.mark.parametrize("pinned", [False, True])
async def test_a_withdrawn_version_counts_as_refused(
    serving: Serving, folder: Path, publish_tiny: Callable[[Path, int], Path], caplog: Any, pinned: bool
) -> None:
    """It is not served again until its file changes or it is newly pinned, in this process or another."""
    await serving.check()
    path = publish_tiny(folder, 2)
    await (serving.reloader.pin(2) if pinned else serving.check())
    serving.reloader.withdraw("en/000002: it failed")
    for _ in range(2):
        assert await serving.check() == ["en/000001", "en/000002"]
    assert serving.counted == {"loaded": 2, "rolled_back": 1}
    assert caplog.text.count("en/000002: it failed") == 1
    listed = [(each.name, each.serving, each.refused) for each in await serving.reloader.versions()]
    assert listed == [("en/000002", False, "en/000002: it failed"), ("en/000001", True, "")]
    if pinned:
        os.utime(path, ns=(1, 1))
    else:
        await Serving(folder).reloader.pin(2)
    assert (await serving.check())[2:] == ["en/000002"]


async def test_start_beside_a_bad_checkpoint(serve: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server starts with the newest good checkpoint of its folder and names the bad one that is newer."""
    (folder / "000002.safetensors").touch()
    async with serve() as running:
        answer = await running.stub.Tag(pb.TagRequest(inputs=[pb.Input(text="Ada")]))
    assert answer.model_version == "en/000001"
    assert caplog.text.count("refused a checkpoint: ") == 1


async def test_an_unreadable_pin(serve: Any, folder: Path, until: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is not taken for none: what serves serves on and the cause is named once, and no server starts."""
    async with serve(reload_poll_s=0.01) as running:
        (folder / PIN).mkdir()
        await until(lambda: f"cannot read {folder / PIN} (Is a directory)" in caplog.text)
        for _ in range(3):
            with pytest.raises(IsADirectoryError):
                await running.server._reloader.check()
    assert caplog.text.count("cannot read") == 1
    with pytest.raises(StartError, match=r"cannot read .*pinned"):
        async with serve():
            pass


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
    """Nothing holds the weights of an old model once the new one has proved itself; no collector need find them."""
    request = pb.TagRequest(inputs=[pb.Input(text="Ada")])
    gc.disable()
    try:
        async with serve() as running:
            await running.stub.Tag(request)
            old = weakref.ref(running.server.engine.model.network)
            publish_tiny(folder, 2)
            await until(lambda: running.server.engine.model.version == "en/000002")
            for _ in range(PROBATION_BATCHES):
                assert old() is not None
                await running.stub.Tag(request)
            await until(lambda: old() is None)
    finally:
        gc.enable()


async def test_storm(serve: Any, folder: Path, publish_tiny: Callable[[Path, int], Path], until: Any) -> None:
    """While versions come and are rolled back, no call fails and each answer is wholly that of the version it names."""
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
        reloader = running.server._reloader
        for change in (reloader.roll_back, reloader.roll_back, reloader.unpin):
            version = await change()
            await until(lambda version=version: answers[-1].model_version == version)
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
