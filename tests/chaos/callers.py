"""Callers who ask until they are told to stop, and what they saw."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio
from tests.chaos.conftest import STREAM_TAG, TAG, until

from ner.v1 import tagger_pb2 as pb

CALLERS = 4  # and as many streams
Tagged: TypeAlias = tuple[tuple[int, int, str], ...]


def spans(entities: Sequence[Any]) -> Tagged:
    """The entities of an outcome or of a tagger's answer, to be compared."""
    return tuple((each.start, each.end, each.label) for each in entities)


@dataclass
class Seen:
    """What callers saw."""

    calls: list[tuple[float, float]] = field(default_factory=list)  # when each call began and ended
    answers: list[tuple[int, str, list[Tagged]]] = field(default_factory=list)  # of which request, by which version
    asked: int = 0
    errors: list[str] = field(default_factory=list)
    newest: str = ""

    def take(self, number: int, reply: pb.TagResponse) -> None:
        """Note a reply to the request of this number."""
        if reply.HasField("error") or any(outcome.HasField("error") for outcome in reply.outcomes):
            self.errors.append(str(reply)[:200])
        self.newest = reply.model_version
        self.answers.append((number, reply.model_version, [spans(each.tagged.entities) for each in reply.outcomes]))


class Callers:
    """Callers and streams that ask until told to stop."""

    def __init__(self, channel: grpc.aio.Channel, requests: Sequence[pb.TagRequest]) -> None:
        self.seen = Seen()
        self.stop = asyncio.Event()
        self._requests = cycle(enumerate(requests))
        self._channel = channel

    async def run(self) -> None:
        """Ask until `stop` is set; everything asked is then answered, or counted as lost."""
        await asyncio.gather(*(work() for work in (self._calls, self._streams) for _ in range(CALLERS)))

    async def served_by(self, path: Path) -> None:
        """Wait until an answer comes from a checkpoint of the folder "en"."""
        await until(lambda: self.seen.newest == f"en/{path.stem}")

    async def _calls(self) -> None:
        tag: Any = self._channel.unary_unary(TAG, pb.TagRequest.SerializeToString, pb.TagResponse.FromString)
        while not self.stop.is_set():
            number, request = next(self._requests)
            began = time.perf_counter()
            self.seen.asked += 1
            try:
                self.seen.take(number, await tag(request))
            except grpc.aio.AioRpcError as error:
                self.seen.errors.append(f"{error.code()}: {error.details()}")
            self.seen.calls.append((began, time.perf_counter()))

    async def _streams(self) -> None:
        call: Any = self._channel.stream_stream(
            STREAM_TAG, pb.TagRequest.SerializeToString, pb.TagResponse.FromString
        )()
        try:
            while not self.stop.is_set():
                number, request = next(self._requests)
                self.seen.asked += 1
                await call.write(request)
                self.seen.take(number, await call.read())
            await call.done_writing()
        finally:
            if (code := await call.code()) is not grpc.StatusCode.OK:
                self.seen.errors.append(str(code))
