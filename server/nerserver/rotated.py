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
    return _read(path, lambda found: None)


def read_secret(path: Path) -> bytes:
    """The same of a file that nobody else may touch; where root owns it, its group may read it (as PostgreSQL asks)."""

    def check(found: os.stat_result) -> None:
        if stat.S_IMODE(found.st_mode) & (0o037 if found.st_uid == 0 else 0o077):
            raise ValueError(
                f"{path} holds a secret and others may use it (mode {stat.S_IMODE(found.st_mode):04o}); "
                f"run: chmod 600 {path}"
            )

    return _read(path, check)


def _read(path: Path, check: Callable[[os.stat_result], None]) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{path} is not a file; give one")
            check(found)
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); give a file that this user can read") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES} bytes, the most that is read")
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for its writer


def _stamp(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode, found.st_uid
