"""Files that are read again once they change."""

import os
from pathlib import Path

import pytest

from nerserver.rotated import MAX_BYTES, Rotated, read_file, read_secret


def test_a_change_while_reading(tmp_path: Path) -> None:
    """What was read in the middle of a change is not taken, and read anew the next time."""
    path = tmp_path / "secret"
    path.write_text("old")
    during: list[str] = []

    def read() -> str:
        text = path.read_text()
        if during:
            path.write_text(during.pop())
        return text

    rotated = Rotated([path], read)
    assert rotated.get() == "old"
    path.write_text("half")
    during.append("whole")
    assert rotated.get() == "old"
    assert rotated.get() == "whole"


def test_read_only_when_changed(tmp_path: Path) -> None:
    """Files that stay are not read again."""
    path = tmp_path / "secret"
    path.touch()
    reads: list[int] = []
    rotated = Rotated([path], lambda: reads.append(1))
    for _ in range(3):
        rotated.get()
    assert len(reads) == 1


def test_no_file(tmp_path: Path) -> None:
    """A pipe, which would be waited for, a folder and what is far too large are refused."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "large").write_bytes(bytes(MAX_BYTES + 1))
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match=r"is not a file|Is a directory"):
            read_secret(path)
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        read_file(tmp_path / "large")
