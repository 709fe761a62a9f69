"""A run's folder: what is written is read again, it has one master, and TensorBoard reads its events."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nertrainer.board import Board
from nertrainer.curve import curve, drawn
from nertrainer.run import BEST, CONFIG, Progress, Run, read_config, sha256

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def line(epoch: int, **facts: Any) -> dict[str, Any]:
    """A line of the metrics."""
    figures = {"loss": 1.5, "lr": 0.1, "dev_f1": 0.5, "dev_f1_each": {"dev": 0.5}, "seconds": 2.0}
    return {"epoch": epoch, "step": 4 * epoch, **figures, "tokens_per_second": 9, **facts}


@example("", [], float("inf"), 0)
@given(TEXT, st.lists(TEXT, max_size=3), st.floats(allow_nan=False), st.integers(-(2**63), 2**63))
def test_options_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, text: str, texts: list[str], real: float, whole: int
) -> None:
    """Whatever a path, a label or a number is, TOML gives it back."""
    folder = tmp_path_factory.mktemp("run")
    config = {"labels": text, "train": texts, "lr": real, "max-vectors": whole, "force": True}
    with Run.create(folder, config, {text: "0" * 64}):
        assert tomllib.loads((folder / CONFIG).read_text(encoding="utf-8")) == {**config, "sha256": {text: "0" * 64}}


def test_a_run_has_one_master(tmp_path: Path) -> None:
    """A second trainer is refused as long as the first has the run, and no longer."""
    with Run.create(tmp_path, {}, {}), pytest.raises(ValueError, match="another trainer is at work"):
        Run.open(tmp_path)
    with Run.open(tmp_path) as run:
        assert run.state() is None


def test_what_is_newer_than_the_state_is_forgotten(tmp_path: Path) -> None:
    """Lines of epochs that the state does not know of are made anew, and what a crash left half written is removed."""
    state = {"weight": torch.arange(3.0)}
    with Run.create(tmp_path, {}, {}) as run:
        assert run.state() is None
        for epoch in (1, 2):
            run.log(line(epoch))
        run.save(state, Progress(epochs=1, step=4, lr=0.5, seconds=9.0))
    (tmp_path / ".0123.partial").touch()
    with Run.open(tmp_path) as run:
        assert (run.progress, run.metrics) == (Progress(1, 4, 0.5, 9.0), [line(1)])
        assert not list(tmp_path.glob(".*.partial"))
        found = run.state()
        assert found is not None
        assert torch.equal(found["weight"], state["weight"])
        run.log(line(2, again=True))
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(each) for each in kept] == [line(1), line(2, again=True)]


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    """A file that is not what the run was begun with ends it before it goes on."""
    data = tmp_path / "data.conll"
    data.write_text("one")
    with Run.create(tmp_path / "run", {}, {str(data): sha256(data)}) as run:
        assert run.check_files() == {str(data): sha256(data)}
        data.write_text("two")
        with pytest.raises(ValueError, match=f"{data}: changed since"):
            run.check_files()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.toml", None, "config.toml: there is no such file; give a folder that `nertrainer train` made"),
        ("config.toml", b"lr = ", "config.toml: not TOML"),
        ("config.toml", b"\xff", "config.toml: not TOML"),
        ("config.toml", b"sha256 = 'x'", "config.toml: sha256: expected a table"),
        ("config.toml", b"[sha256]\nx = 3", "config.toml: sha256: expected a table"),
        ("metrics.jsonl", b"{", "metrics.jsonl: not the metrics of this run"),
        ("metrics.jsonl", b"1\n", "metrics.jsonl: not the metrics of this run"),
        ("metrics.jsonl", b"{}\n", "metrics.jsonl: not the metrics of this run"),
        ("metrics.jsonl", json.dumps(line(2)).encode(), "metrics.jsonl: not the metrics of this run"),
        ("metrics.jsonl", json.dumps(line(1, loss="1.5")).encode(), "metrics.jsonl: not the metrics of this run"),
        ("metrics.jsonl", json.dumps(line(1, dev_f1_each={"a": {}})).encode(), "metrics.jsonl: not the metrics"),
        ("result.json", b"", "result.json: does not say how the run ended; remove it, and go on with --resume"),
        ("result.json", b"{}", "result.json: does not say how the run ended"),
        ("result.json", b"[]", "result.json: does not say how the run ended"),
        ("state.safetensors", b"", "state.safetensors: not the state of this run"),
        ("state.safetensors", b"\x02\0\0\0\0\0\0\0{}", "state.safetensors: not the state of this run"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    """Whatever of a run is missing or damaged, the error names the file."""
    with Run.create(tmp_path, {}, {}) as run:
        run.log(line(1))
        run.save({}, Progress(epochs=1))
    path = tmp_path / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Run.open(tmp_path)


@pytest.mark.parametrize("left", ["metrics.jsonl", BEST])
def test_a_run_that_lost_its_state_is_not_begun_anew(tmp_path: Path, left: str) -> None:
    """What an earlier process made is not overwritten from epoch 1, unless that process saved nothing."""
    with Run.create(tmp_path, {}, {}):
        pass
    with Run.open(tmp_path) as run:
        assert run.progress == Progress()
    (tmp_path / left).write_text("")
    with pytest.raises(ValueError, match=f"state.safetensors: is gone, though {left} is there; put it back, or start"):
        Run.open(tmp_path)


def test_a_state_is_verified(tmp_path: Path) -> None:
    """A bit that flipped among the weights or in how far they are trained is not gone on with."""
    with Run.create(tmp_path, {}, {}) as run:
        run.save({"weight": torch.arange(300.0), "flag": torch.tensor(True)}, Progress(step=4))
    path = tmp_path / "state.safetensors"
    whole = path.read_bytes()
    Run.open(tmp_path).__exit__()
    for at in (len(whole) - 50, whole.index(b"step") + len(b'step\\": ')):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match="not the state of this run; it was damaged, so start a new run"):
            Run.open(tmp_path)


def test_a_folder_in_use_is_no_place_for_a_run(tmp_path: Path) -> None:
    """Neither another run nor other files are ever mixed with a new run."""
    with Run.create(tmp_path / "run", {}, {}):
        pass
    with pytest.raises(ValueError, match="is a run already; go on with --resume"):
        Run.create(tmp_path / "run", {}, {})
    with pytest.raises(ValueError, match="is not empty"):
        Run.create(tmp_path, {}, {})
    (tmp_path / "link").symlink_to("nothing")
    for path in (tmp_path / "run" / CONFIG, tmp_path / "link"):
        with pytest.raises(ValueError, match="is not a folder; give a new folder as --run"):
            Run.create(path, {}, {})
    assert read_config(tmp_path / "run" / CONFIG) == {"sha256": {}}


def test_tensorboard_reads_what_is_written_and_forgets_what_is_made_anew(tmp_path: Path) -> None:
    """Points that a killed process made beyond its last save do not stand beside those of the process after it."""
    with Board(tmp_path, 0) as board:
        for step in (10, 20, 30):
            board.add(step, {"loss": 100.0 - step, "lr": 0.5})
    (first,) = tmp_path.iterdir()
    first.rename(tmp_path / "events.out.tfevents.1.1")
    with Board(tmp_path, 15) as board:
        board.add(20, {"loss": 7.0})
        board.flush()
        events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 90.0), (20, 7.0)]
    assert [event.value for event in events.Scalars("lr")] == [0.5]


@pytest.mark.parametrize("epochs", [1, 3, 60])
def test_the_curve_draws_every_figure(epochs: int) -> None:
    """However many epochs there are and whatever their files are called, each has its line, and the best its mark."""
    names = ("$a_{b/dev", "데이터/dev")
    x = range(1, epochs + 1)
    lines = [
        {
            "epoch": at,
            "loss": 1 / at,
            "dev_f1": 0.75 * at / 100,
            "dev_f1_each": {names[0]: at / 100, names[1]: at / 200},
        }
        for at in x
    ]
    upper, lower = drawn(lines, best=epochs).axes
    found = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in upper.lines}
    for name, of in ((names[0], 1.0), (names[1], 0.5), ("mean", 0.75)):
        assert np.allclose(found[name], [[at, of * at] for at in x])
    (mark,) = (line for line in upper.lines if line.get_marker() == "*")
    assert np.allclose(np.asarray(mark.get_xydata()), [[epochs, 0.75 * epochs]])
    assert np.allclose(np.asarray(lower.lines[0].get_xydata()), [[at, 1 / at] for at in x])
    assert curve(lines, best=epochs).startswith(b"\x89PNG\r\n")
