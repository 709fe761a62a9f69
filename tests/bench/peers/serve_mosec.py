"""mosec: one worker, batches of up to 32 requests, and 1 ms of waiting for more (its least)."""

from typing import Any

import msgspec
import torch
from mosec import Server, Worker
from tests.bench.reference import PlainTorch

from nermodel import DEFAULT
from nermodel.checkpoint import load


class Tagger(Worker):
    """Sentences of a request to their tag ids."""

    def __init__(self) -> None:
        self.tagger = PlainTorch(load(DEFAULT, torch.device("cpu")))

    def deserialize(self, data: bytes) -> Any:
        return msgspec.json.decode(data)

    def forward(self, data: list[Any]) -> list[Any]:
        return self.tagger.tag_each([request["sentences"] for request in data])

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)


if __name__ == "__main__":
    server = Server()  # reads --address and --port
    server.append_worker(Tagger, max_batch_size=32, max_wait_time=1)
    server.run()
