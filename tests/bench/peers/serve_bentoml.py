"""BentoML: one worker, and adaptive batches of up to 128 sentences."""

import sys

import bentoml
import torch
from tests.bench.reference import PlainTorch

from nermodel import DEFAULT
from nermodel.checkpoint import load


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Tagger:
    """Sentences of a request to their tag ids."""

    def __init__(self) -> None:
        self.tagger = PlainTorch(load(DEFAULT, torch.device("cpu")))

    @bentoml.api(batchable=True, max_batch_size=128, route="/tag")
    def tag(self, sentences: list[list[str]]) -> list[list[int]]:
        return self.tagger.tag(sentences)


if __name__ == "__main__":
    Tagger.serve_http(host="127.0.0.1", port=int(sys.argv[-1]))
