"""LitServe: one API process and one worker, batches of up to 32 requests, and no wait for more (its default)."""

import sys
from typing import Any

import litserve
import torch
from fastapi import Request
from tests.bench.reference import PlainTorch

from nermodel import DEFAULT
from nermodel.checkpoint import load


class Tagger(litserve.LitAPI):
    """Sentences of a request to their tag ids."""

    def setup(self, device: str) -> None:
        self.tagger = PlainTorch(load(DEFAULT, torch.device(device)))

    def decode_request(self, request: Request) -> Any:  # which LitServe takes for: give me the JSON
        return request["sentences"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: list[Any]) -> list[Any]:
        return self.tagger.tag_each(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> Any:
        return output


if __name__ == "__main__":
    api = Tagger(max_batch_size=32)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[-1]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
