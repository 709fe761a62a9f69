"""Files that a reader finds whole or not at all, also after a crash or on a full disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

PARTIAL = ".{}.partial"  # what is being written, and what a crash leaves


def replace_file(path: Path, data: bytes) -> None:
    """Put these bytes at `path` in place of what is there; OSError, which names the path, leaves that as it was."""
    with _beside(path, data) as partial:
        partial.replace(path)
    sync_folder(path.parent)


def new_file(path: Path, data: bytes) -> None:
    """Put these bytes at `path`, where nothing is yet; FileExistsError where something is."""
    with _beside(path, data) as partial:
        path.hardlink_to(partial)  # unlike a rename, a link never lands on another's file
    sync_folder(path.parent)


@contextmanager
def _beside(path: Path, data: bytes) -> Iterator[Path]:
    """A hidden file of these bytes in the folder of `path`, safe on the disk, to be linked or renamed; gone after."""
    partial = path.with_name(PARTIAL.format(uuid4().hex))
    try:
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the folder's new names safe on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
