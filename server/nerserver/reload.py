"""The reload: checkpoints of a folder are loaded aside, proved, warmed up and only then served.

The newest good one serves, or the one that the folder's pin names: a hidden file with its number, so that it holds for
every process that follows the folder, and after a restart.
"""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchfiles import awatch

from nermodel.checkpoint import CheckpointError, versions
from nermodel.files import replace_file, sync_folder
from nermodel.tagger import Tagger
from nerserver.errors import NotFoundError, RefusedError

logger = logging.getLogger(__name__)
PIN = ".pinned"
_NUMBER = re.compile(rb"\d{1,18}\n?")
Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Version:
    """A checkpoint of the folder, as its owners are told of it."""

    number: int
    name: str  # "en/000003"
    serving: bool
    pinned: bool
    refused: str  # why, or empty
    updated_ns: int  # since 1970
    bytes: int


@dataclass(frozen=True)
class _Folder:
    """What is in a model's folder at one moment."""

    name: str
    files: dict[Path, os.stat_result]  # of checkpoints, newest first
    pin: int | None
    trouble: str  # why the pin cannot be kept to, or empty


@dataclass(frozen=True)
class _Failure:
    """Why a file was refused; equal to another of the same kind over the same file."""

    stamp: Stamp
    kind: type[Exception]
    cause: str = field(compare=False)


@dataclass(frozen=True)
class _Served:
    """A version that serves or served."""

    number: int
    version: str
    path: Path
    stamp: Stamp


class Reloader:
    """Follows a folder: what it is to serve goes from `prepare` to `install`.

    `count` is told "loaded", "refused" or "rolled_back" of each checkpoint that comes to it.
    """

    def __init__(
        self,
        folder: Path,
        prepare: Callable[[Path], Awaitable[Tagger]],
        install: Callable[[Tagger, Path], None],
        poll_s: float,
        count: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._prepare = prepare
        self._install = install
        self._poll_s = poll_s
        self._count = count
        self._served: tuple[_Served, ...] = ()  # the last one serves, the one before it is what it is rolled back to
        self._undone: tuple[_Served, ...] = ()  # the same before the last swap
        self._failures: dict[Path, _Failure] = {}
        self._pin: int | None = None  # as last seen
        self._said = ""
        self._deciding = asyncio.Lock()  # from a look at the folder until what it asks for serves

    async def follow(self) -> None:
        """Check at every change of the folder and every `poll_s` seconds, until cancelled."""
        async for _ in self._ticks():
            try:
                log_refused(await self.check())
            except OSError as error:
                self._say(f"cannot read {error.filename} ({error.strerror}); what serves serves on")

    async def check(self) -> list[str]:
        """Serve the checkpoint that is pinned, or without a pin the newest that is good and newer than what serves.

        Where nothing serves yet, a pinned one that is missing or bad gives way to the newest good one. Returns why each
        bad one on the way is refused, once. One that is bad in itself is passed over until it changes or is newly
        pinned; one that failed otherwise, such as for want of memory, is tried again. OSError: the folder or its pin
        cannot be read.
        """
        async with self._deciding:
            return await self._check()

    async def versions(self) -> list[Version]:
        """Every checkpoint in the folder, newest first; OSError where it cannot be read."""
        folder = await asyncio.to_thread(_look, self._folder)
        listed = []
        for path, stat in folder.files.items():
            number = int(path.stem)
            failure = self._failures.get(path)
            refused = failure.cause if failure and failure.stamp == _stamp(stat) else ""
            pinned = number == folder.pin
            name = f"{folder.name}/{path.stem}"
            listed.append(
                Version(number, name, number == self._serving, pinned, refused, stat.st_mtime_ns, stat.st_size)
            )
        return listed

    async def pin(self, number: int) -> str:
        """Prove and serve a version, also one that was refused before, and keep to it; returns its name.

        NotFoundError, RefusedError with its cause, or OSError where the pin cannot be written: all is as it was.
        """
        async with self._deciding:
            return await self._keep_to(number, await asyncio.to_thread(_look, self._folder))

    async def unpin(self) -> str:
        """Serve the newest good version; the name of what serves. OSError: the pin cannot be taken away."""
        async with self._deciding:
            await asyncio.to_thread(_remove_pin, self._folder)
            log_refused(await self._check())
            return self._served[-1].version if self._served else ""

    async def roll_back(self) -> str:
        """As `pin`, with the version before the one that serves; rolled back again it is the one before that."""
        async with self._deciding:
            folder = await asyncio.to_thread(_look, self._folder)
            if len(self._served) < 2:
                raise NotFoundError("no other version has served in this process; pin one by its number")
            return await self._keep_to(self._served[-2].number, folder)

    def withdraw(self, cause: str) -> None:
        """Take note that the version that serves has failed, and that the one before it serves again."""
        failed = self._served[-1]
        self._served = self._undone
        self._failures[failed.path] = _Failure(failed.stamp, CheckpointError, cause)
        self._count("rolled_back")
        logger.warning("rolled back: %s", cause)

    @property
    def _serving(self) -> int:
        return self._served[-1].number if self._served else 0

    async def _check(self) -> list[str]:
        folder = await asyncio.to_thread(_look, self._folder)
        self._say(folder.trouble)
        if folder.pin != self._pin:  # its owner wants it, so what was refused is tried again
            self._pin = folder.pin
            self._failures = {path: failure for path, failure in self._failures.items() if int(path.stem) != self._pin}
        causes: list[str] = []
        for path in self._candidates(folder):
            stamp = _stamp(folder.files[path])
            known = self._failures.get(path)
            if known == _Failure(stamp, CheckpointError, ""):
                continue
            try:
                tagger = await self._proved(path, stamp)
            except RefusedError as refusal:
                if self._failures[path] != known:
                    causes.append(str(refusal))
                continue
            self._serve(tagger, path, stamp)
            break
        return causes

    def _candidates(self, folder: _Folder) -> list[Path]:
        """What is to serve instead of what serves, best first."""
        if folder.trouble and self._serving:
            return []
        newer = [path for path in folder.files if int(path.stem) > self._serving]
        if folder.pin is None:
            return newer
        pinned = [path for path in folder.files if int(path.stem) == folder.pin]
        if not self._serving:
            return pinned + newer
        return [] if folder.pin == self._serving else pinned

    async def _keep_to(self, number: int, folder: _Folder) -> str:
        path = next((path for path in folder.files if int(path.stem) == number), None)
        if path is None:
            raise NotFoundError(f"{self._folder} holds no version {number}; list what it holds")
        stamp = _stamp(folder.files[path])
        tagger = None
        if number != self._serving:
            known = self._failures.get(path)
            try:
                tagger = await self._proved(path, stamp)
            except RefusedError as refusal:
                if self._failures[path] != known:
                    log_refused([str(refusal)])
                raise
        await asyncio.to_thread(replace_file, self._folder / PIN, b"%d\n" % number)
        self._pin = number
        if tagger is not None:
            self._serve(tagger, path, stamp)
        return f"{folder.name}/{path.stem}"

    async def _proved(self, path: Path, stamp: Stamp) -> Tagger:
        """What `prepare` makes of a checkpoint; RefusedError with the cause of whatever goes wrong."""
        try:
            return await self._prepare(path)
        except Exception as error:  # whatever it is, the one that serves goes on
            failure = _Failure(stamp, type(error), cause_of(path, error))
            if self._failures.get(path) != failure:
                self._count("refused")
            self._failures[path] = failure
            raise RefusedError(failure.cause) from error

    def _serve(self, tagger: Tagger, path: Path, stamp: Stamp) -> None:
        served = _Served(int(path.stem), tagger.model.version, path, stamp)
        before = self._served
        if len(before) > 1 and before[-2].number == served.number < before[-1].number:
            before = before[:-2]  # going back is no step forward: to roll back twice goes back by two
        self._undone, self._served = self._served, (*before, served)
        self._failures.pop(path, None)
        self._install(tagger, path)
        self._count("loaded")
        logger.info("serving %s from %s, run by %s", tagger.model.version, path, tagger.name)

    def _say(self, trouble: str) -> None:
        """Log what keeps the folder from being followed, once."""
        if trouble and trouble != self._said:
            logger.warning("%s", trouble)
        self._said = trouble

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


def _look(folder: Path) -> _Folder:
    files = {}
    for path in reversed(versions(folder)):
        with suppress(OSError):  # it is gone again
            files[path] = path.stat() if path.exists() else path.lstat()  # a link to nothing is to be named
    name = folder.resolve().name
    try:
        with open(folder / PIN, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            text = file.read(100) or b""  # of a pipe without a writer None
    except FileNotFoundError:
        return _Folder(name, files, None, "")
    if not _NUMBER.fullmatch(text):
        return _Folder(name, files, None, f"{folder / PIN}: not a version's number; what serves serves on, pin anew")
    pin = int(text)
    is_there = any(int(path.stem) == pin for path in files)
    missing = f"{folder / PIN}: version {pin} is not in the folder; pin another, or none"
    return _Folder(name, files, pin, "" if is_there else missing)


def _remove_pin(folder: Path) -> None:
    (folder / PIN).unlink(missing_ok=True)
    sync_folder(folder)


def _stamp(stat: os.stat_result) -> Stamp:
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
