"""Ray Serve behind HAProxy, for throughput: one replica, batches of up to 32 requests, and no wait for more."""

import sys
from typing import Any

import ray
import torch
from ray import serve
from starlette.requests import Request
from tests.bench.reference import PlainTorch

from nermodel import DEFAULT
from nermodel.checkpoint import load


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Tagger:
    """Sentences of a request to their tag ids."""

    def __init__(self) -> None:
        self.tagger = PlainTorch(load(DEFAULT, torch.device("cpu")))

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0)
    async def tag(self, requests: list[Any]) -> list[Any]:
        return self.tagger.tag_each(requests)

    async def __call__(self, request: Request) -> Any:
        return await self.tag((await request.json())["sentences"])


if __name__ == "__main__":
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1")
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[-1])}, logging_config=quiet)
    serve.run(Tagger.bind(), blocking=True)
