"""Several processes train one model, as `torchrun` starts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

SCRIPT = """
import sys
from dataclasses import replace

import safetensors.torch
import torch
from tests.trainer.test_loop import CPU, RECIPE, training

from nertrainer import processes

torch.set_num_threads(1)
processes.join(CPU)
part = training(replace(RECIPE, epochs=2, batch_sentences=5, dropout=0.0, word_dropout=0.0))
list(part.run())
if processes.rank() == 0:
    safetensors.torch.save_file(part.state(), sys.argv[1])
processes.leave()
"""

PATTERN = [
    ((name, "PER"), ("left", ""), (place, "LOC"))
    for name in ("Mary", "Ivan", "Chidi", "Noor")
    for place in ("Oslo", "Lagos", "Lima", "Pune")
]


@pytest.mark.timeout(120)
def test_two_processes_train_the_model_that_one_does(tmp_path: Path) -> None:
    """Without dropout, whose masks are each process's own, all weights agree with those of one process to rounding."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    states = []
    for name, command in (("one", [sys.executable]), ("two", torchrun)):
        path = tmp_path / name
        subprocess.run([*command, script, path], check=True, env=environment)
        states.append(safetensors.torch.load_file(path))
    one, two = states
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-3, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_command_trains_under_torchrun(tmp_path: Path) -> None:
    """Two processes learn what one learns, one of them writes and speaks, and both see that a run is finished."""
    sentences = ["\n".join(f"{word} B-{tag}" if tag else f"{word} O" for word, tag in sentence) for sentence in PATTERN]
    (tmp_path / "data.conll").write_text("\n\n".join(sentences) + "\n")
    options = "--train data.conll --dev data.conll --hidden 12 --batch 5 --lr 0.02 --epochs 12 --ema 0.9 --dropout 0.2"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for arguments, said in ((["--run", "run", *options.split()], "trained run"), (["--resume", "run"], "finished")):
        command = [*torchrun, "nertrainer", "train", *arguments]
        ended = subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
        (path,) = ended.stdout.split()
        assert (tmp_path / path).samefile(tmp_path / "run" / "best.safetensors")
        assert ended.stderr.count(said) == 1
    assert (tmp_path / "run" / "result.json").exists()
