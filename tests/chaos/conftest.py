"""Servers as processes of their own, to be hurt, and the figures that a promise comes to."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.bench.reference import corpus
from tests.conftest import Figure as Figure  # noqa: PLC0414 the tests beside take it from here

from ner.v1 import tagger_pb2 as pb
from nermodel import DEFAULT

TAG = "/ner.v1.Tagger/Tag"
STREAM_TAG = "/ner.v1.Tagger/StreamTag"


@pytest.fixture(scope="session")
def sentences() -> list[list[str]]:
    """2,000 sentences as tokens: the corpus, then neighbours of it joined."""
    found = corpus()
    return found + [one + other for one, other in pairwise(found)][: 2000 - len(found)]


def asked(sentences: Sequence[Sequence[str]], request_id: str = "", **options: Any) -> pb.TagRequest:
    """A request for the tags of tokenised sentences."""
    packed = pb.PackedSentences(tokens="\n".join(chain.from_iterable(sentences)), lengths=map(len, sentences))
    return pb.TagRequest(id=request_id, packed=packed, options=pb.TagOptions(tags=True, **options))


async def until(condition: Callable[[], object], within_s: float = 60) -> None:
    """Wait until a condition holds, and fail where it does not in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.01)


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
    log: Path, model: Path = DEFAULT, options: Sequence[str] = (), address: str = "127.0.0.1:0", before: str = ""
) -> Iterator[Serving]:
    """Start a server with a model, a checkpoint or a folder, and kill it at the end of the context.

    `before` is Python that its process runs first.
    """
    program = ["-c", f"{before}\nfrom nerserver.__main__ import main\nmain()"] if before else ["-m", "nerserver"]
    command = [sys.executable, *program, "--model", str(model), "--address", address, *options]
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
