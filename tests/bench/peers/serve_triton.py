"""Triton by nvidia-pytriton: one instance, dynamic batches of up to 128 sentences, and no wait for more (its default).

A sentence travels as its words joined by spaces, and its answer as its tag ids joined by spaces.
"""

import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from tests.bench.reference import PlainTorch

from nermodel import DEFAULT
from nermodel.checkpoint import load

# The Python inside Triton may be older than the library that it finds here, whose multiprocessing, from 3.11.7 on, asks
# a lock for a count that older locks do not keep.
GUARD = """
import threading
if not hasattr(threading.RLock(), "_recursion_count"):
    threading.RLock = threading._PyRLock
"""

TAGGER = PlainTorch(load(DEFAULT, torch.device("cpu")))


@batch
def infer(sentences: Any) -> dict[str, Any]:
    """sentences [N, 1] to paths [N, 1]."""
    paths = TAGGER.tag([row[0].decode().split(" ") for row in sentences])
    return {"paths": np.array([[" ".join(map(str, path)).encode()] for path in paths], object)}


if __name__ == "__main__":
    Path(sysconfig.get_path("purelib"), "sitecustomize.py").write_text(GUARD)
    port = int(sys.argv[-1])
    config = TritonConfig(http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="tagger",
            infer_func=infer,
            inputs=[Tensor(name="sentences", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="paths", dtype=bytes, shape=(1,))],
            config=ModelConfig(max_batch_size=128, batcher=DynamicBatcher()),
        )
        triton.serve()
