"""Training survives what ends it: real signals at exact places, full disks, losses that are no numbers."""

import json
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from tests.trainer.conftest import write_sentences
from tests.trainer.signalled import STEP, SYNC, Ended, Signal, nertrainer

from nermodel.checkpoint import load, tensors_sha256

STEPS = 15  # of an epoch
SYNCS = 22  # of a run: config; the first state; best, metrics, curve and state of two epochs; result; each twice
TRAIN = ["train", "--train", "data/a.conll", "--dev", "data/a.conll", "--hidden", "16", "--batch", "4", "--epochs", "2"]
TRAIN += ["--lr", "0.05", "--word-lr", "0.1", "--ema", "0.5", "--dropout", "0.02"]  # the second epoch is the better one
CUTS = random.Random(1)
SCORE = "nertrainer.fitting:evaluate"  # called once an epoch
START = "nertrainer.fitting:new_network"
FINISH = "nertrainer.run.Run:finish"  # called once a run
LINK = "pathlib.Path:hardlink_to"  # called for the config, a version's card, the version
READ = "nertrainer.reading:read_text"  # called once a file


def write_data(folder: Path) -> None:
    """The first sentences of our corpus."""
    (folder / "data").mkdir()
    write_sentences(folder / "data" / "a.conll", 60)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run without what the clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: line[name] for name in line if name not in ("seconds", "tokens_per_second")} for line in lines]


def assert_same(run: Path, other: Path) -> None:
    """Both runs came to the same bits."""
    for name in ("best.safetensors", "state.safetensors"):
        found, expected = load_file(run / name), load_file(other / name)
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert metrics(run) == metrics(other)
    assert load(run / "best.safetensors", torch.device("cpu")).card.metrics["dev_f1"] > 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    write_data(folder)
    ended = nertrainer(folder, *TRAIN, "--run", "run")
    assert ended.code == 0, ended.err
    return folder / "run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the data."""
    write_data(tmp_path)
    return tmp_path


def killed_and_resumed(folder: Path, *cuts: Signal, save_every: float = 300, left: int = 2 * STEPS) -> None:
    """Kill a run at each cut in turn, counted anew in every process, and let it make the `left` steps to its end."""
    for number, cut in enumerate(cuts):
        what = ["train", "--resume", "run"] if number else [*TRAIN, "--run", "run", "--save-every", save_every]
        ended = nertrainer(folder, *what, signals=[cut])
        assert ended.code == -signal.SIGKILL, ended.err
    ended = nertrainer(folder, "train", "--resume", "run", signals=[Signal(STEP, left + 1)])
    assert ended.code == 0, ended.err
    assert folder / ended.out.strip() == folder / "run" / "best.safetensors"


@pytest.mark.parametrize(
    ("cut", "save_every", "left"),
    [(Signal(STEP, 1), 300.0, 30), (Signal(STEP, 9), 0.0, 22), (Signal(SYNC, 11), 300.0, 15)],
    ids=["before a save", "after a save in an epoch", "between metrics and state"],
)
def test_a_killed_run_comes_to_the_same_bits(
    whole: Path, folder: Path, cut: Signal, save_every: float, left: int
) -> None:
    """SIGKILL and --resume change no bit of the weights, and no line of the metrics is lost or doubled."""
    killed_and_resumed(folder, cut, save_every=save_every, left=left)
    assert_same(folder / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", CUTS.sample(range(1, 2 * STEPS + 1), 10))
@pytest.mark.parametrize("save_every", [0.0, 300.0])
def test_a_run_killed_at_any_step_comes_to_the_same_bits(
    whole: Path, folder: Path, step: int, save_every: float
) -> None:
    """So it is at every step, whether or not the state was saved since the last epoch."""
    killed_and_resumed(folder, Signal(STEP, step), save_every=save_every)
    assert_same(folder / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("sync", range(3, SYNCS + 1))
def test_a_run_killed_while_it_writes_comes_to_the_same_bits(whole: Path, folder: Path, sync: int) -> None:
    """So it is before and after the renaming of every file that is written."""
    killed_and_resumed(folder, Signal(SYNC, sync))
    assert_same(folder / "run", whole)


@pytest.mark.slow
def test_a_run_killed_again_and_again_comes_to_the_same_bits(whole: Path, folder: Path) -> None:
    """Seven processes that keep three steps each (one ends an epoch), and one that makes the rest."""
    killed_and_resumed(folder, *[Signal(STEP, 4)] * 7, save_every=0, left=9)
    assert_same(folder / "run", whole)


@pytest.mark.parametrize(
    ("at", "saved", "left"),
    [
        (Signal(STEP, 3, signal.SIGTERM), "saved at epoch 1, step 3 of 15", 27),
        (Signal(STEP, 3, signal.SIGINT), "saved at epoch 1, step 3 of 15", 27),
        (Signal(STEP, 15, signal.SIGTERM), "saved at the end of epoch 1, before its scores", 15),
        (Signal(SCORE, 2, signal.SIGTERM), "saved at the end of epoch 2, before its scores", 0),
        (Signal(START, 1, signal.SIGTERM), "there was nothing new to save", 30),
    ],
    ids=["in an epoch", "SIGINT", "at an epoch's last step", "while scoring", "before a step"],
)
def test_a_stopped_run_is_saved_and_goes_on(whole: Path, folder: Path, at: Signal, saved: str, left: int) -> None:
    """Wherever the signal comes no step is lost, the last line says how to go on, and that makes the steps left."""
    ended = nertrainer(folder, *TRAIN, "--run", "run", signals=[at])
    assert (ended.code, ended.out) == (130 if at.number == signal.SIGINT else 0, "")
    assert ended.last == f"stopped by {at.number.name}: {saved}; go on with `nertrainer train --resume run`"
    resumed = nertrainer(folder, "train", "--resume", "run", signals=[Signal(STEP, left + 1)])
    assert resumed.code == 0, resumed.err
    assert_same(folder / "run", whole)


def test_a_signal_while_files_are_read_is_heard(folder: Path) -> None:
    """Before there is a run, the process ends with a line that says so, and makes none."""
    ended = nertrainer(folder, *TRAIN, "--run", "run", signals=[Signal(READ, 2, signal.SIGTERM)])
    assert (ended.code, ended.out) == (0, "")
    assert ended.last == "stopped by SIGTERM: there was nothing new to save; no run was begun"
    assert not (folder / "run").exists()


def test_a_run_killed_after_its_publication_is_not_published_again(folder: Path) -> None:
    """Going on finds the version that has the run's bytes, and only writes how the run ended."""
    publish = [*TRAIN, "--run", "run", "--output", "models/en"]
    assert nertrainer(folder, *publish, signals=[Signal(FINISH, 1)]).code == -signal.SIGKILL
    before = sorted((folder / "models" / "en").iterdir())
    resumed = nertrainer(folder, "train", "--resume", "run")
    version = folder / "models" / "en" / "000001.safetensors"
    assert (resumed.code, resumed.out) == (0, f"{version}\n"), resumed.err
    assert sorted((folder / "models" / "en").iterdir()) == before
    assert json.loads((folder / "run" / "result.json").read_text())["checkpoint"] == str(version)


@pytest.mark.parametrize("at", [Signal(LINK, 3, signal.SIGTERM), Signal(FINISH, 1, signal.SIGTERM)])
def test_a_signal_waits_for_publication(folder: Path, at: Signal) -> None:
    """Once a run is being published, it is so to the end, and says how it ended."""
    ended = nertrainer(folder, *TRAIN, "--run", "run", "--output", "models/en", signals=[at])
    version = folder / "models" / "en" / "000001.safetensors"
    assert (ended.code, folder / ended.out.strip()) == (0, version), ended.err
    assert version.with_suffix(".md").exists()
    assert json.loads((folder / "run" / "result.json").read_text())["checkpoint"] == str(version)


def test_a_second_signal_ends_at_once(whole: Path, folder: Path) -> None:
    """While the first is obeyed, another ends the process, and the run is as it was."""
    twice = [Signal(STEP, 3, signal.SIGTERM), Signal(SYNC, 3, signal.SIGTERM)]
    ended = nertrainer(folder, *TRAIN, "--run", "run", signals=twice)
    assert ended.code == -signal.SIGTERM
    assert not (folder / "run" / "state.safetensors").exists()
    assert nertrainer(folder, "train", "--resume", "run").code == 0
    assert_same(folder / "run", whole)


def test_a_finished_run_says_so_and_does_nothing(whole: Path) -> None:
    """Going on with a run that has ended changes no file and names its checkpoint."""
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    ended = nertrainer(whole.parent, "train", "--resume", "run")
    assert (ended.code, ended.out, ended.last) == (
        0,
        f"{whole / 'best.safetensors'}\n",
        "run: finished; nothing is left to do",
    )
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir() if path.name != "lock"} == {
        path: time for path, time in before.items() if path.name != "lock"
    }


def test_a_finished_run_may_be_moved(whole: Path, tmp_path: Path) -> None:
    """Its checkpoint is found where the run is now; where that is gone, the line says so."""
    shutil.copytree(whole, tmp_path / "moved")
    ended = nertrainer(tmp_path, "train", "--resume", "moved")
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'moved' / 'best.safetensors'}\n")
    (tmp_path / "moved" / "best.safetensors").unlink()
    ended = nertrainer(tmp_path, "train", "--resume", "moved")
    assert (ended.code, ended.out) == (1, "")
    assert "best.safetensors: is gone, though moved ended with it; put it back, or start a new run" in ended.last


@pytest.fixture(params=["limit", "tmpfs"])
def full(request: pytest.FixtureRequest, folder: Path) -> Iterator[int | None]:
    """A disk that has no room for a second state: by a limit on the size of files, or a real file system of 4 MB."""
    if request.param == "limit":
        yield 500_000
        return
    run = folder / "run"
    run.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", run], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount")
    yield None
    subprocess.run(["umount", run], check=True)


def test_a_full_disk_harms_nothing(whole: Path, folder: Path, full: int | None) -> None:
    """What was saved stays whole, one line says what to do, and with room again the run comes to its end."""
    run = folder / "run"
    stopped = nertrainer(folder, *TRAIN, "--run", "run", signals=[Signal(SCORE, 2, signal.SIGTERM)])
    assert stopped.code == 0, stopped.err
    before = {name: (run / name).read_bytes() for name in ("state.safetensors", "best.safetensors", "metrics.jsonl")}
    ballast = run / "ballast"
    ended: Ended
    if full is None:
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(4_000_000))
    ended = nertrainer(folder, "train", "--resume", "run", max_file=full)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "what was saved before is whole: make room, then go on with `nertrainer train --resume run`" in ended.last
    assert (run / "state.safetensors").read_bytes() == before["state.safetensors"]
    assert load(run / "best.safetensors", torch.device("cpu")).card.provenance["epoch"] >= 1
    assert not [path for path in run.iterdir() if path.name.endswith(".partial")]
    ballast.unlink(missing_ok=True)
    resumed = nertrainer(folder, "train", "--resume", "run")
    assert resumed.code == 0, resumed.err
    assert_same(run, whole)


def test_a_loss_that_is_no_number_keeps_the_best(folder: Path) -> None:
    """The line says where it happened and which epoch is kept, and that can be loaded."""
    path = folder / "run" / "state.safetensors"
    stopped = nertrainer(folder, *TRAIN, "--run", "run", signals=[Signal(STEP, 17, signal.SIGTERM)])
    assert "saved at epoch 2, step 2 of 15" in stopped.last
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    state["network.output.bias"][0] = torch.nan
    save_file(state, path, {**metadata, "sha256": tensors_sha256(state, metadata["nerstream.run"])})
    ended = nertrainer(folder, "train", "--resume", "run")
    assert ended.code == 1
    assert "became nan at epoch 2, step 3; " in ended.last
    assert ended.last.endswith("; the best so far, epoch 1 with dev F1 0.00, is run/best.safetensors")
    assert load(folder / "run" / "best.safetensors", torch.device("cpu")).card.provenance["epoch"] == 1


def test_a_loss_that_is_no_number_in_the_first_epoch_keeps_nothing(folder: Path) -> None:
    """Where no epoch ended there is nothing to keep, and the line says so."""
    ended = nertrainer(folder, *TRAIN, "--run", "run", "--optimizer", "sgd", "--lr", "1e30")
    assert ended.code == 1
    assert "at epoch 1, step " in ended.last
    assert ended.last.endswith("no epoch ended, so nothing is kept")
    assert not (folder / "run" / "best.safetensors").exists()
