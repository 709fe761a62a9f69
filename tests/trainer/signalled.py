"""Processes of `nertrainer` that get a signal at an exact place. They are forked from one that has torch loaded."""

import multiprocessing
import os
import pkgutil
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["nertrainer.cli", "nertrainer.curve"])
STEP = "nertrainer.loop:Step"  # made once a step, before anything of it is saved
SYNC = "os:fsync"  # called twice for each file that is replaced: before and after its renaming


class Signal(NamedTuple):
    """Comes right before a function is called for the `call`-th time."""

    place: str  # MODULE:NAME of the function
    call: int  # from 1
    number: signal.Signals = signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How the command ended."""

    code: int  # negative: of the signal that ended its process
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line of what it said."""
        return self.err.strip().rsplit("\n", 1)[-1]


def nertrainer(folder: Path, *arguments: object, signals: Sequence[Signal] = (), max_file: int | None = None) -> Ended:
    """Run the command to its end in this working directory; it can write no file of more than `max_file` bytes."""
    process = _FORKS.Process(target=_main, args=(folder, [str(each) for each in arguments], signals, max_file))
    process.start()
    process.join()
    assert process.exitcode is not None
    return Ended(process.exitcode, *((folder / name).read_text(encoding="utf-8") for name in (".out", ".err")))


def _main(folder: Path, arguments: list[str], signals: Sequence[Signal], max_file: int | None) -> None:
    os.chdir(folder)
    for stream, name in ((sys.stdout, ".out"), (sys.stderr, ".err")):
        with Path(name).open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    import torch  # noqa: PLC0415

    from nertrainer.cli import main  # noqa: PLC0415

    torch.set_num_threads(1)
    if max_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file, max_file))
    for place in {each.place for each in signals}:
        _watch(place, {each.call: each.number for each in signals if each.place == place})
    sys.argv = ["nertrainer", *arguments]
    main()


def _watch(place: str, numbers: dict[int, signal.Signals]) -> None:
    module, _, name = place.partition(":")
    owner = pkgutil.resolve_name(module)
    original = getattr(owner, name)
    calls = 0

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in numbers:
            os.kill(os.getpid(), numbers[calls])
        return original(*args, **kwargs)

    setattr(owner, name, watched)
