"""Tiny random models as checkpoints, and servers of them on loopback."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tests.conftest import MakeModel, publish

from ner.v1 import tagger_pb2_grpc
from nermodel.tagger import Answer, Ask, TorchTagger
from nerserver.server import Server
from nerserver.settings import Settings

Publish = Callable[[Path, int], Path]
POISON = "arsenic"
WORDS = ("Ada", "Babbage", "London", "of", "the", "met", "Acme", "Inc.", "in", "French", ".", ",")


class FailingTagger(TorchTagger):
    """Fails at the poison."""

    def tag(self, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> list[Answer]:
        if any(POISON in words for words in sentences):
            raise KeyError(POISON)
        return super().tag(sentences, asks)


@pytest.fixture
def publish_tiny(make_model: MakeModel) -> Publish:
    """Publish a tiny model with random weights, which answers otherwise for another seed."""
    return lambda folder, seed: publish(folder, make_model(seed, words=WORDS), [("Ada", "met", "Acme")])


@pytest.fixture
def folder(tmp_path: Path, publish_tiny: Publish) -> Path:
    """A folder that holds the first version of a model named "en"."""
    publish_tiny(tmp_path / "en", 1)
    return tmp_path / "en"


class Running:
    """A running server, and clients of it."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub: Any = tagger_pb2_grpc.TaggerStub(channel)  # type: ignore[no-untyped-call]

    @contextmanager
    def engine_held(self) -> Iterator[None]:
        """Keep the engine's thread busy until the end of the context."""
        release = threading.Event()
        engine = self.server.engine
        engine._thread.submit(release.wait)
        engine.inline_tokens, inline_tokens = 0, engine.inline_tokens
        try:
            yield
        finally:
            engine.inline_tokens = inline_tokens
            release.set()


async def _until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds, for a test that has nothing to be told by."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait until a condition holds."""
    return _until


@pytest.fixture
def serve(folder: Path) -> Callable[..., AbstractAsyncContextManager[Running]]:
    """Start a server with these settings, and stop it at the end of the context."""

    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Running]:
        basis = Settings(
            model=folder,
            address="127.0.0.1:0",
            device="cpu",
            precision="float32",  # near ties of random weights fall as in the reference
            threads=1,
            drain_s=5,
            reload_poll_s=0.1,
        )
        server = Server(replace(basis, **settings))
        await server.startup()
        try:
            async with grpc.aio.insecure_channel(server.address) as channel:
                yield Running(server, channel)
        finally:
            await server.shutdown()

    return run
