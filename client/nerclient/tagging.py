"""What `nerclient tag` does: documents in, answers out, and a line for each that fails."""
# ruff: noqa: PLC0415 rich is slow to import

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TypeAlias

from nerclient.client import Client
from nerclient.documents import Document, Parse, UnreadableError, check, read
from nerclient.render import Format
from nerclient.results import Input, Result

Say: TypeAlias = Callable[[str], None]  # one line to the user


class Tagging:
    """Tags the documents of some files in order. `failures` counts those without an answer, and unreadable files."""

    def __init__(self, files: Sequence[str], parse: Parse, form: Format, say: Say) -> None:
        self.failures = 0
        self._parse = parse
        self._form = form
        self._say = say
        self._waiting: deque[Document] = deque()  # sent, in the order in which results will come
        self._failed_documents = 0
        self._documents = 0
        self._files = [file for file in files if self._readable(file)]

    async def run(
        self, client: Client, *, scores: bool, tags: bool, min_probability: float | None, progress: bool
    ) -> None:
        """Writes an answer for every document to standard output, and flushes whenever no more are ready."""
        if not self._files:
            return
        with _progress(progress) as show:
            batches = client.stream_batches(self._inputs(), scores=scores, tags=tags, min_probability=min_probability)
            async with aclosing(batches):
                async for results in batches:
                    sys.stdout.buffer.write("".join(map(self._rendered, results)).encode())
                    sys.stdout.buffer.flush()
                    show(self._documents)
        if self._failed_documents:
            self._say(f"{self._failed_documents:,} of {self._documents:,} documents failed, each named above")

    def _inputs(self) -> Iterator[Input]:
        for file in self._files:
            try:
                for document in read(file, self._parse):
                    self._waiting.append(document)
                    yield "" if document.input is None else document.input
            except UnreadableError as error:
                self._fail(f"{file}: {error}")

    def _rendered(self, result: Result) -> str:
        document = self._waiting.popleft()
        self._documents += 1
        problem = document.problem or (result.error and str(result.error))
        if not problem:
            return self._form.answer(result)
        self._failed_documents += 1
        self._fail(f"{document.place}: {problem}")
        return self._form.failure(document.input, problem)

    def _readable(self, file: str) -> bool:
        try:
            check(file)
        except UnreadableError as error:
            self._fail(f"{file}: {error}")
            return False
        return True

    def _fail(self, message: str) -> None:
        self.failures += 1
        self._say(message)


@contextmanager
def _progress(wanted: bool) -> Iterator[Callable[[int], None]]:
    """Shows on standard error how many documents are done, and how many a second."""
    if not wanted:
        yield lambda done: None
        return

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    counts = TextColumn("{task.completed:,.0f} documents, {task.fields[rate]:,.0f} a second")
    with Progress(SpinnerColumn(), counts, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate=0.0)
        began = time.monotonic()

        def show(done: int) -> None:
            bar.update(task, completed=done, rate=done / (time.monotonic() - began))

        yield show
