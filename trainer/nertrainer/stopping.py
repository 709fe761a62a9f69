"""SIGTERM and SIGINT, heard when it suits: between steps, or anywhere in work that may be left."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self


class Stopped(Exception):  # noqa: N818 - no error
    """A signal asked to stop; the message says what is saved, `code` is what to exit with."""

    def __init__(self, number: signal.Signals, saved: str):
        super().__init__(f"stopped by {number.name}: {saved}")
        self.number = number
        self.code = 130 if number is signal.SIGINT else 0


class Stop:
    """Hears the signals while it is entered. The first is kept until it is asked for, a second ends the process."""

    def __init__(self) -> None:
        self._heard: signal.Signals | None = None
        self._may_raise = False

    def __enter__(self) -> Self:
        numbers = [signal.SIGTERM, signal.SIGINT]
        # One that the process was started to ignore stays ignored.
        numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._hear) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def is_asked(self) -> bool:
        """Whether a signal came."""
        return self._heard is not None

    def check(self, saved: str = "there was nothing new to save") -> None:
        """Raise Stopped if a signal came."""
        if self._heard is not None:
            raise Stopped(self._heard, saved)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises Stopped wherever it finds the code; for work that may be left at any point."""
        self._may_raise = True
        try:
            self.check()
            yield
        finally:
            self._may_raise = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        self._heard = signal.Signals(number)
        if self._may_raise:
            self.check()
