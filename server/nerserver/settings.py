"""What one server process can be told, and nothing else: no part of it reads the environment."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from nermodel.checkpoint import DEFAULT

MOST = 2**31 - 1  # an int of gRPC
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "int8", "float16"]


@dataclass(frozen=True)
class Settings:
    """Settings of a server; ValueError where a number is out of range."""

    model: Path = DEFAULT  # a checkpoint, or a folder whose newest numbered checkpoint is served and followed
    address: str = "127.0.0.1:50051"  # HOST:PORT; port 0 is any free one
    insecure: bool = False  # listen beyond loopback without TLS
    device: Device = "auto"
    precision: Precision = "auto"  # on a CPU int8 where it is fast and the model's dev F1 holds, else float32
    threads: int = 0  # of the engine on the CPU; 0 is one a core, but one core left to the event loop
    max_batch_tokens: int = 4096  # padded: the longest sentence times their number
    max_batch_sentences: int = 128
    max_queue_tokens: int = 262_144  # of each priority; above it who has some waiting is refused, or on a stream waits
    max_inputs: int = 4096  # of one request
    max_request_bytes: int = 4 << 20
    max_text_bytes: int = 1 << 20  # UTF-8, of one input
    max_sentence_tokens: int = 4096  # any length works (see nermodel.windows), but all wait until a long one is done
    stream_window: int = 1024  # inputs read ahead and unanswered, of one stream
    max_streams: int = 100  # calls in flight on one connection
    reload_poll_s: float = 1.0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("threads", "drain_s") else 1 if field.type is int else 0.01
            # Of a request's bytes gRPC is told twice as many.
            most = {"threads": 1024, "max_request_bytes": MOST // 2}.get(field.name, MOST)
            if field.type in (int, float) and not least <= value <= most:
                raise ValueError(f"{field.name} is {value}, expected {least} to {most}")
