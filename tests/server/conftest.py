"""Tiny random models as checkpoints, and servers of them on loopback."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch

from ner.v1 import tagger_pb2_grpc
from nermodel.checkpoint import Card, publish, rounded
from nermodel.network import Network, NetworkConfig
from nermodel.tags import tag_table
from nermodel.vocabulary import PAD, Vocabulary
from nerserver.server import Server
from nerserver.settings import Settings

WORDS = ("Ada", "Babbage", "London", "of", "the", "met", "Acme", "Inc.", "in", "French", ".", ",")
CPU = torch.device("cpu")
torch.set_num_threads(1)


def publish_tiny(folder: Path, seed: int) -> Path:
    """Publish a tiny model with random weights, which answers otherwise for another seed."""
    torch.manual_seed(seed)
    table = tag_table(("LOC", "MISC", "ORG", "PER"), "BIO")
    vocabulary = Vocabulary.build([WORDS], 1)
    config = NetworkConfig(word_dim=8, char_dim=4, char_filters=6, hidden=8)
    network = Network(config, vocabulary, table)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    for embedding in (network.word, network.char):
        torch.nn.init.zeros_(embedding.weight[PAD])
    network.forbid_illegal()
    card = Card(table, config, {"dev_f1": 0.5}, {})
    return publish(folder, rounded(card, vocabulary, network, CPU), [("Ada", "met", "Acme")])


@pytest.fixture(name="publish_tiny")
def publish_tiny_() -> Callable[[Path, int], Path]:
    """See the function."""
    return publish_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds the first version of a model named "en"."""
    publish_tiny(tmp_path / "en", seed=1)
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
        self.server.engine._thread.submit(release.wait)
        try:
            yield
        finally:
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
        basis = Settings(model=folder, address="127.0.0.1:0", device="cpu", threads=1, drain_s=5, reload_poll_s=0.1)
        server = Server(replace(basis, **settings))
        await server.startup()
        try:
            async with grpc.aio.insecure_channel(server.address) as channel:
                yield Running(server, channel)
        finally:
            await server.shutdown()

    return run
