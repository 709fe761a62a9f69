"""What TensorBoard reads of a run: a file of events for each process that worked on it."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Board:
    """Writes scalars. Not torch's SummaryWriter, whose thread ends in a traceback where the disk is full."""

    def __init__(self, folder: Path, step: int):
        """In this folder, for steps after `step`: earlier files' events beyond it are to be forgotten."""
        self._file = (folder / f"events.out.tfevents.{time.time():.0f}.{os.getpid()}").open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=step + 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values that these names have at a step."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(summary=Summary(value=scalars), step=step))

    def flush(self) -> None:
        """Let readers see what was added."""
        self._file.flush()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
