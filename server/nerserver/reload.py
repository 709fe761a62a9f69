"""The reload: new checkpoints of a folder are loaded aside, proved, warmed up and only then served."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from watchfiles import awatch

from nermodel.checkpoint import CheckpointError, versions
from nermodel.tagger import Tagger

logger = logging.getLogger(__name__)
Stamp = tuple[int, int, int]


@dataclass
class Reloads:
    """How many checkpoints came to what."""

    loaded: int = 0
    refused: int = 0


class Reloader:
    """Follows a folder: its newest good checkpoint goes from `prepare` to `install`."""

    def __init__(
        self,
        folder: Path,
        prepare: Callable[[Path], Awaitable[Tagger]],
        install: Callable[[Tagger, Path], Awaitable[None]],
        poll_s: float,
    ) -> None:
        self.reloads = Reloads()
        self._folder = folder
        self._prepare = prepare
        self._install = install
        self._poll_s = poll_s
        self._serving = 0  # the number of the version
        self._failures: dict[Path, tuple[Stamp, type[Exception]]] = {}

    async def follow(self) -> None:
        """Check at every change of the folder and every `poll_s` seconds, until cancelled."""
        async for _ in self._ticks():
            try:
                log_refused(await self.check())
            except OSError as error:
                logger.debug("cannot list %s: %s", self._folder, error.strerror)

    async def check(self) -> list[str]:
        """Serve the newest checkpoint that is good and newer than the one that serves.

        Returns why each bad one on the way is refused, once. One that is bad in itself is passed over until it changes;
        one that failed otherwise, such as for want of memory, is tried again.
        """
        causes: list[str] = []
        for path in reversed(versions(self._folder)):
            if int(path.stem) <= self._serving:
                break
            try:
                stamp = _stamp(path)
            except OSError:
                continue  # it is gone again
            if self._failures.get(path) == (stamp, CheckpointError):
                continue
            try:
                tagger = await self._prepare(path)
            except Exception as error:  # whatever it is, the one that serves goes on
                failure = (stamp, type(error))
                if self._failures.get(path) != failure:
                    self._failures[path] = failure
                    self.reloads.refused += 1
                    causes.append(cause_of(path, error))
                continue
            self._failures.pop(path, None)
            await self._install(tagger, path)
            self._serving = int(path.stem)
            self.reloads.loaded += 1
            logger.info("serving %s from %s, run by %s", tagger.model.version, path, tagger.name)
            break
        return causes

    async def _ticks(self) -> AsyncIterator[None]:
        """At every change, which some file systems do not tell of, and after every wait."""
        poll_ms = round(self._poll_s * 1000)
        try:
            async for _ in awatch(
                self._folder, watch_filter=None, recursive=False, rust_timeout=poll_ms, yield_on_timeout=True
            ):
                yield
        except (OSError, RuntimeError) as error:  # watchfiles' own error is a RuntimeError
            logger.warning("cannot watch %s (%s); looking every %s s", self._folder, error, self._poll_s)
        while True:
            await asyncio.sleep(self._poll_s)
            yield


def log_refused(causes: Iterable[str]) -> None:
    """Name checkpoints that were refused in the log, each in one line."""
    for cause in causes:
        logger.warning("refused a checkpoint: %s", cause)


def cause_of(path: Path, error: Exception) -> str:
    """Why a checkpoint cannot be served, in one line that names it."""
    if isinstance(error, CheckpointError):
        return str(error)
    what = error.strerror or str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return f"{path}: {' '.join(what.split())}"


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
