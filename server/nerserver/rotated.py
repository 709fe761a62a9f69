"""Certificates, keys and tokens: files that must be closed to others, and are read again once they change."""

import logging
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)
ValueT = TypeVar("ValueT")
MAX_BYTES = 1 << 20


class Rotated(Generic[ValueT]):
    """What files hold; what cannot be read never takes the place of what could."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], ValueT]) -> None:
        """Read them; ValueError of `read` says why that cannot be done."""
        self._paths = paths
        self._read = read
        self._lock = threading.Lock()
        self._stamps = self._look()
        self._cause = ""
        self._value = read()

    def get(self) -> ValueT:
        """The newest that was good, from any thread; why a newer one is not is logged once."""
        with self._lock:
            stamps = self._look()
            if stamps == self._stamps:
                return self._value
            try:
                value = self._read()
            except ValueError as error:
                if str(error) != self._cause:
                    logger.warning("what was read before serves on: %s", error)
                self._cause = str(error)
                self._stamps = stamps
                return self._value
            if self._look() == stamps:  # else it was read in the middle of a change
                self._cause = ""
                self._stamps, self._value = stamps, value
                logger.info("read again: %s", ", ".join(map(str, self._paths)))
            return self._value

    def _look(self) -> list[object]:
        return [_stamp(path) for path in self._paths]


def read_file(path: Path) -> bytes:
    """A file's bytes; ValueError where it cannot be read or is none of at most MAX_BYTES."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} is not a file; give one")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); give a file that this user can read") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is {len(data)} bytes, expected at most {MAX_BYTES}")
    return data


def read_secret(path: Path) -> bytes:
    """The same of a file that nobody else may touch; where root owns it, its group may read it (as PostgreSQL asks)."""
    try:
        found = path.stat()
    except OSError:
        return read_file(path)
    open_to = stat.S_IMODE(found.st_mode) & (0o037 if found.st_uid == 0 else 0o077)
    if open_to and stat.S_ISREG(found.st_mode):
        raise ValueError(
            f"{path} holds a secret and others may use it (mode {stat.S_IMODE(found.st_mode):04o}); "
            f"run: chmod 600 {path}"
        )
    return read_file(path)


def _stamp(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode, found.st_uid
