"""A training run as a folder: all that is needed to go on after the process is gone, and to see how it went.

    config.toml        every option, resolved, and the SHA-256 of every file that is read
    state.safetensors  the training itself, as of the last save
    best.safetensors   the checkpoint of the best epoch, which alone says which epoch that is
    metrics.jsonl      a line an epoch
    curve.png          loss and dev F1 to look at; events.* are the same for TensorBoard
    result.json        how it ended; a run that has it is finished

Every file but the events is replaced as a whole. The state is written last: what is newer than it is made anew.
"""

import fcntl
import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nermodel.checkpoint import Card, Model, load, tensors_sha256, write
from nermodel.files import PARTIAL, new_file, replace_file

BEST = "best.safetensors"
CONFIG = "config.toml"
STATE = "state.safetensors"
_METRICS = "metrics.jsonl"
_RESULT = "result.json"
_PROGRESS = "nerstream.run"  # the key of the state's metadata
_SHA256 = "sha256"  # the same, of all that the state holds
_FIGURES = ("epoch", "step", "loss", "lr", "dev_f1", "seconds", "tokens_per_second")  # of a line of the metrics


@dataclass(frozen=True)
class Progress:
    """How far a state is, and what later epochs' lines need of the process that wrote it."""

    epochs: int = 0  # that ended, were scored and stand in metrics.jsonl
    step: int = 0  # of the next epoch
    lr: float = 0.0  # of the last step
    seconds: float = 0.0  # of all processes, as far as their steps were saved


class Run:
    """A run's folder, in the hands of this process alone until it is closed."""

    def __init__(self, path: Path, config: Mapping[str, Any], sha256: Mapping[str, str]):
        """Of a folder that `create` or `open` has made sure of; they are the way to get one."""
        self.path = path
        self.config = config  # option names and their values
        self.sha256 = sha256  # of files by their absolute paths
        self.progress = Progress()
        self.metrics: list[dict[str, Any]] = []

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], sha256: Mapping[str, str]) -> Self:
        """Begin a run in an empty or new folder; ValueError where it is neither."""
        check_new(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, config, sha256)
        with run._locking():
            run._write_config()
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """Go on with a run as it was saved last; ValueError where there is none, or it is at work or damaged."""
        config = read_config(path / CONFIG)
        run = cls(path, config, config.pop("sha256", {}))
        with run._locking():
            for partial in path.glob(PARTIAL.format("*")):
                partial.unlink()
            if run.result is None:
                run.progress = run._read_progress()
                run.metrics = run._read_metrics()
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._locked.close()

    @property
    def best_path(self) -> Path:
        """Where the best epoch's checkpoint is, once there is one."""
        return self.path / BEST

    @property
    def result(self) -> dict[str, Any] | None:
        """How the run ended, if it did; ValueError where the file does not say so."""
        path = self.path / _RESULT
        if not path.exists():
            return None
        result = read_json(path)
        if not (isinstance(result, dict) and isinstance(result.get("checkpoint"), str)):
            raise ValueError(f"{path}: does not say how the run ended; remove it, and go on with --resume {self.path}")
        return result

    @property
    def state_is_missing(self) -> bool:
        """Whether the state was never saved."""
        return not (self.path / STATE).exists()

    def best(self) -> Card | None:
        """What the best epoch's checkpoint says of itself; CheckpointError or OSError if it is damaged or gone."""
        if not self.progress.epochs and not self.best_path.exists():
            return None
        return load(self.best_path, torch.device("cpu")).card

    def keep(self, model: Model, known: Sequence[Sequence[str]]) -> None:
        """Write the best epoch's checkpoint."""
        write(self.best_path, model, known)

    def log(self, line: Mapping[str, Any]) -> None:
        """Add an epoch's line to the metrics."""
        self.metrics.append(dict(line))
        text = "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in self.metrics)
        replace_file(self.path / _METRICS, text.encode())

    def save(self, state: Mapping[str, Tensor], progress: Progress) -> None:
        """Write the state; from here on a resumed run begins with it."""
        said = json.dumps(asdict(progress))
        data = safetensors.torch.save(dict(state), {_PROGRESS: said, _SHA256: tensors_sha256(state, said)})
        replace_file(self.path / STATE, data)
        self.progress = progress

    def state(self) -> dict[str, Tensor] | None:
        """The tensors last saved, if any were."""
        path = self.path / STATE
        return safetensors.torch.load_file(path) if path.exists() else None

    def finish(self, result: Mapping[str, Any], name: str = _RESULT) -> None:
        """Write how the run ended."""
        replace_file(self.path / name, f"{json.dumps(result, ensure_ascii=False, indent=2)}\n".encode())

    def check_files(self) -> Mapping[str, str]:
        """The SHA-256 of the files the run was begun with; ValueError where one changed, OSError where it is gone."""
        for name, digest in self.sha256.items():
            if sha256(Path(name)) != digest:
                raise ValueError(f"{name}: changed since {self.path} began; put it back, or start a new run")
        return self.sha256

    def _read_progress(self) -> Progress:
        path = self.path / STATE
        if not path.exists():
            left = [name for name in (_METRICS, BEST) if (self.path / name).exists()]
            if left:  # else it was never saved
                raise ValueError(f"{path}: is gone, though {left[0]} is there; put it back, or start a new run")
            return Progress()
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata()
            if metadata[_SHA256] != tensors_sha256(safetensors.torch.load_file(path), metadata[_PROGRESS]):
                raise ValueError("the SHA-256 does not match")
            return Progress(**json.loads(metadata[_PROGRESS]))
        except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise ValueError(f"{path}: not the state of this run; it was damaged, so start a new run") from error

    def _read_metrics(self) -> list[dict[str, Any]]:
        path = self.path / _METRICS
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            lines = [json.loads(line) for line in text.split("\n") if line]
            if len(lines) < self.progress.epochs:
                raise ValueError(f"{len(lines)} of {self.progress.epochs} epochs")
            if not all(_is_of_epoch(line, epoch) for epoch, line in enumerate(lines, 1)):
                raise ValueError("a line without the figures of its epoch")
        except (RecursionError, ValueError) as error:
            raise ValueError(f"{path}: not the metrics of this run; it was damaged, so start a new run") from error
        return lines[: self.progress.epochs]

    def _write_config(self) -> None:
        lines = [f"{name} = {_toml(value)}\n" for name, value in self.config.items()]
        lines += ["\n[sha256]\n", *(f"{_toml(name)} = {_toml(value)}\n" for name, value in self.sha256.items())]
        new_file(self.path / CONFIG, "".join(lines).encode())

    @contextmanager
    def _locking(self) -> Iterator[None]:
        """Take the folder; the kernel gives it back when this process ends in whatever way, or the body fails."""
        self._locked = (self.path / "lock").open("w")
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            self._locked.close()
            raise ValueError(f"{self.path}: another trainer is at work on this run; wait until it ends") from error
        except BaseException:
            self._locked.close()
            raise


def check_new(path: Path) -> None:
    """ValueError where no run can begin, for the folder is in use or no folder; said before the work, not after."""
    if (path / CONFIG).exists():
        raise ValueError(f"{path}: is a run already; go on with --resume {path}, or give another --run")
    if not path.is_dir() and (path.exists() or path.is_symlink()):
        raise ValueError(f"{path}: is not a folder; give a new folder as --run")
    if path.is_dir() and any(each.name != "lock" for each in path.iterdir()):
        raise ValueError(f"{path}: is not empty; give a new folder as --run")


def read_config(path: Path) -> dict[str, Any]:
    """The values of a TOML file, `sha256` a table; ValueError where it is not so, or there is none."""
    values = _read_toml(path)
    digests = values.get("sha256", {})
    if not (isinstance(digests, dict) and all(isinstance(digest, str) for digest in digests.values())):
        raise ValueError(f"{path}: sha256: expected a table of files and their SHA-256; take it away, or mend it")
    return values


def read_json(path: Path) -> Any:
    """The value in a JSON file, None where it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (RecursionError, ValueError):
        return None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        cure = "; give a folder that `nertrainer train` made" if path.name == CONFIG else ""
        raise ValueError(f"{path}: there is no such file{cure}") from error
    except ValueError as error:  # also text that is not UTF-8
        raise ValueError(f"{path}: not TOML: {error}") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_of_epoch(line: Any, epoch: int) -> bool:
    if not (isinstance(line, dict) and isinstance(line.get("dev_f1_each"), dict)):
        return False
    figures = [*(line.get(name) for name in _FIGURES), *line["dev_f1_each"].values()]
    return line.get("epoch") == epoch and all(
        isinstance(figure, int | float) and math.isfinite(figure) for figure in figures
    )


def _toml(value: object) -> str:
    if isinstance(value, float):
        return repr(value)  # JSON has no inf
    # Strings, whole numbers, booleans and lists of JSON are TOML too, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
