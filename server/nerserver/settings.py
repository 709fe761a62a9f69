"""What one server process can be told, and nothing else: no part of it reads the environment."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from nermodel import DEFAULT

MOST = 2**31 - 1  # an int of gRPC
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "int8", "float16"]
LogFormat = Literal["console", "json"]
_LEAST = {"threads": 0, "drain_s": 0, "max_slowdown": 1}
_MOST = {"workers": 256, "threads": 1024, "max_request_bytes": MOST // 2}  # gRPC is told twice a request's bytes


@dataclass(frozen=True)
class Settings:
    """Settings of a server; ValueError where a number is out of range."""

    model: Path = DEFAULT  # a checkpoint, or a folder whose newest numbered checkpoint is served and followed
    address: str = "127.0.0.1:50051"  # HOST:PORT; port 0 is any free one
    http_address: str = ""  # HOST:PORT of /healthz, /readyz and /metrics in plain HTTP; empty is none
    tls_cert: Path | None = None  # PEM, the server's own certificate first; read again when it changes, as all four
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # PEM; only clients with a certificate signed by one of these get in
    token_file: Path | None = None  # a token a line; every call must carry one of them, but for health
    admin_token_file: Path | None = None  # for ner.v1.Admin, which is not there without it
    insecure: bool = False  # listen beyond loopback without TLS
    reflection: bool = False  # describe the services to whoever may call them
    device: Device = "auto"
    precision: Precision = "auto"  # on a CPU int8 where it is fast and the model's dev F1 holds, else float32
    workers: int = 1  # processes that share the address, each with a model of its own
    threads: int = 0  # of a worker's engine on the CPU; 0 is all cores but one, or of several workers a share
    max_batch_tokens: int = 4096  # where the engine pads, its longest sentence times their number
    max_batch_sentences: int = 128
    max_queue_tokens: int = 262_144  # of each priority; above it who has some waiting is refused, or on a stream waits
    max_inputs: int = 4096  # of one request
    max_request_bytes: int = 4 << 20
    max_text_bytes: int = 1 << 20  # UTF-8, of one input
    max_sentence_tokens: int = 4096  # any length works (see nermodel.windows), but all wait until a long one is done
    stream_window: int = 1024  # inputs read ahead and unanswered, of one stream
    max_streams: int = 100  # calls in flight on one connection
    max_calls: int = 1000  # in flight on all of them
    max_connections: int = 1000
    max_slowdown: float = 3.0  # a new checkpoint that is so many times slower than the one that serves is refused
    reload_poll_s: float = 1.0
    drain_s: float = 10.0
    log_format: LogFormat = "console"
    traces: str = ""  # URL that OpenTelemetry traces go to, by OTLP over HTTP; empty is none

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = _LEAST.get(field.name, 1 if field.type is int else 0.01), _MOST.get(field.name, MOST)
            if field.type in (int, float) and not least <= value <= most:
                raise ValueError(f"{field.name} is {value}, expected {least} to {most}")
        if self.http_address and self.http_address == self.address and not self.address.endswith(":0"):
            raise ValueError(f"address and http_address are both {self.address}; give each a port of its own")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together; give both, or neither for plaintext")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca asks clients for certificates over TLS; give tls_cert and tls_key too")
