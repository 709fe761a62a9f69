"""Servers as processes of their own, to be hurt, and the figures that a promise comes to."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from nermodel.checkpoint import DEFAULT

FIGURES = pytest.StashKey[list[tuple[str, str]]]()
Figure = Callable[[str], None]


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no figures."""
    config.stash[FIGURES] = []


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print every figure as a row of a table."""
    if figures := config.stash[FIGURES]:
        terminalreporter.section("figures")
        terminalreporter.line("| promise | figure |\n|---|---|")
        for promise, text in figures:
            terminalreporter.line(f"| {promise} | {text} |")


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Note what a promise came to, to be printed at the end."""
    promise = request.function.__doc__.splitlines()[0].rstrip(".")
    return lambda text: request.config.stash[FIGURES].append((promise, text))


@dataclass(frozen=True)
class Serving:
    """A server process that serves, and its log."""

    process: psutil.Popen
    address: str
    log: Path

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def rss(self) -> int:
        """Resident bytes of it and its children."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return sum(each.memory_info().rss for each in family)

    def descriptors(self) -> int:
        """Open file descriptors."""
        return int(psutil.Process(self.process.pid).num_fds())


@contextmanager
def serving(
    log: Path, model: Path = DEFAULT, options: Sequence[str] = (), address: str = "127.0.0.1:0"
) -> Iterator[Serving]:
    """Start a server with a model, a checkpoint or a folder, and kill it at the end of the context."""
    command = [sys.executable, "-m", "nerserver", "--model", str(model), "--address", address, *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NERSERVER_")}
    with (
        open(log, "ab") as errors,
        psutil.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment) as process,
    ):
        try:
            yield Serving(process, _greeted(process, log), log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()


def _greeted(process: psutil.Popen, log: Path) -> str:
    """The address in the greeting."""
    line = process.stdout.readline().decode()
    found = re.search(r"listening on (\S+)", line)
    assert found, f"the server did not start: {log.read_text()}"
    return found[1]
