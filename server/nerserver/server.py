"""The server: built from its settings in one place, then startup, main and shutdown."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import torch
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from nermodel.checkpoint import Model, load, versions
from nermodel.tagger import Tagger
from nerserver.address import check_address, is_loopback
from nerserver.admin import NAME as ADMIN
from nerserver.admin import Admin
from nerserver.batcher import Batcher
from nerserver.engine import Engine, check_precision, choose_device, tagger_for, warm_up
from nerserver.errors import StartError
from nerserver.gate import Gate, Tokens
from nerserver.guard import Guard
from nerserver.health import Health
from nerserver.metrics import Metrics
from nerserver.policy import Budget
from nerserver.reload import Reloader, cause_of, log_refused
from nerserver.service import NAME, Service
from nerserver.settings import Settings
from nerserver.tls import server_credentials

if TYPE_CHECKING:  # it needs an extra
    from nerserver.tracing import Tracing

logger = logging.getLogger(__name__)
MAX_REPLY_BYTES = 64 << 20
KEEPALIVE_MS = 30_000
PING_TIMEOUT_MS = 10_000
PENDING_CALLS, MOST_PENDING_CALLS = 256, 300  # beyond the first gRPC ends some, beyond the second all
HANDSHAKE_TIMEOUT_MS = 10_000
NOTICE_S = 0.05  # that watchers of health know before calls are refused
LINGER_S = 0.25  # what watchers of health get to go
SWITCH_INTERVAL_S = 0.0001  # that one thread keeps the interpreter while another wants it (default: 0.005)


class Server:
    """One server process: everything it is made of, and its life."""

    def __init__(self, settings: Settings) -> None:
        """Build it; StartError where the settings do not suit this machine. Needs a running event loop."""
        try:
            self.device = choose_device(settings.device)
            check_precision(self.device, settings.precision)
            if settings.workers == 1:
                check_address(settings.address, settings.insecure or settings.tls_cert is not None)
            elif self.device.type == "cuda":
                raise ValueError(
                    f"workers is {settings.workers}, but processes would only take turns on a CUDA device; "
                    "use --workers 1, or --device cpu"
                )
            self._credentials = _credentials(settings)
            self.metrics = Metrics()
            gate = _gate(settings, self.metrics.turned_away)
            self._tracing = _tracing(settings.traces)
        except ValueError as error:
            raise StartError(str(error)) from error
        self.settings = settings
        self.threads = settings.threads or max(torch.get_num_threads() - 1, 1)
        self.address = settings.address  # with the real port once started
        self.engine = Engine(self.threads, self._withdraw)
        budget = Budget(settings.max_batch_tokens, settings.max_batch_sentences)
        self._batcher: Batcher[Model] = Batcher(
            self.engine.tag, budget, settings.max_queue_tokens, observe=self.metrics.batch
        )
        # Two threads, so that a short text need not wait for a long one; more would only take from the event loop.
        self._text = ThreadPoolExecutor(2, "text")
        # On one CPU thread, so that a reload takes little from the model that serves.
        self._loader = ThreadPoolExecutor(1, "loader", initializer=torch.set_num_threads, initargs=(1,))
        traces = {"trace": self._tracing.request} if self._tracing else {}
        self._service = Service(settings, self.engine, self._batcher, self._text, self.metrics, **traces)
        self._reloader = Reloader(
            settings.model, self._prepare, self._install, settings.reload_poll_s, self.metrics.reload
        )
        self._health = Health(NAME)
        layers = [Guard(), gate, *filter(None, [self._tracing])]
        self._grpc = grpc.aio.server(interceptors=layers, options=_options(settings))
        self._grpc.add_generic_rpc_handlers((self._service.handlers(),))
        if settings.admin_token_file:
            self._grpc.add_generic_rpc_handlers((Admin(self._reloader).handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if settings.reflection:
            admin = (ADMIN,) if settings.admin_token_file else ()
            names = (NAME, *admin, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._grpc)
        self.metrics.watch("waiting_tokens", "Tokens that wait for the engine.", lambda: self._batcher.waiting_tokens)
        self.metrics.watch("calls", "Calls of Tag and StreamTag in flight.", lambda: self._service.calls)
        self.metrics.watch("streams", "Streams among them.", lambda: self._service.streams)
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self.model_path: Path | None = None  # of the model that was installed last

    async def startup(self) -> None:
        """Load the model and listen; StartError where that fails. An empty folder is waited for."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        folder = _is_folder(self.settings.model)
        await (self._load_newest() if folder else self._load_file(self.settings.model))
        try:
            if self._credentials:
                port = self._grpc.add_secure_port(self.settings.address, self._credentials)
            else:
                port = self._grpc.add_insecure_port(self.settings.address)
        except RuntimeError as error:
            raise StartError(f"cannot listen on {self.settings.address}; give another --address") from error
        self.address = f"{self.settings.address.rpartition(':')[0]}:{port}"
        await self._grpc.start()
        self._tasks = [asyncio.create_task(self._batcher.serve()), asyncio.create_task(self.metrics.follow_lag())]
        if folder:
            self._tasks.append(asyncio.create_task(self._reloader.follow()))

    async def main(self) -> None:
        """Serve until `stop`; what a background task dies of is raised."""
        stopped = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait((stopped, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in done:
            task.result()

    def stop(self) -> None:
        """Let `main` return."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    async def shutdown(self) -> None:
        """Take no more work, answer what was read, and close within `drain_s`."""
        self._health.stop()
        await asyncio.sleep(NOTICE_S)
        self._service.drain()
        closed = asyncio.create_task(self._grpc.stop(self.settings.drain_s))
        drained = asyncio.create_task(self._service.drained())
        await asyncio.wait((closed, drained), return_when=asyncio.FIRST_COMPLETED)
        await self._grpc.stop(LINGER_S)
        for task in (*self._tasks, closed, drained):
            task.cancel()
        await asyncio.gather(*self._tasks, closed, drained, return_exceptions=True)
        self.engine.close()
        for executor in (self._text, self._loader):
            executor.shutdown(wait=False, cancel_futures=True)
        if self._tracing:
            await asyncio.to_thread(self._tracing.close)

    async def _load_file(self, path: Path) -> None:
        try:
            tagger = await self._prepare(path)
        except Exception as error:
            raise StartError(
                f"{cause_of(path, error)}; give --model a checkpoint or a folder of checkpoints"
            ) from error
        self._install(tagger, path)

    async def _load_newest(self) -> None:
        folder = self.settings.model
        try:
            found = versions(folder)
            others = [path for path in folder.iterdir() if not path.name.startswith(".") and path.suffix != ".md"]
        except OSError as error:
            raise StartError(f"cannot read {folder} ({error.strerror}); give --model another folder") from error
        if not found and others:
            raise StartError(
                f"{folder} holds no checkpoints (files such as 000001.safetensors); give --model one that does"
            )
        try:
            refused = await self._reloader.check()
        except OSError as error:
            raise StartError(f"cannot read {error.filename} ({error.strerror}); see that it can be read") from error
        if refused and self.engine.model is None:
            raise StartError(f"{refused[0]}; {folder} has no other that is good, so give --model another")
        log_refused(refused)

    async def _prepare(self, path: Path) -> Tagger:
        return await asyncio.get_running_loop().run_in_executor(self._loader, self._prepared, path)

    def _prepared(self, path: Path) -> Tagger:
        """What runs a checkpoint, when it has passed every gate and is warmed up; for the loader's thread."""
        tagger = tagger_for(load(path, self.device), self.threads, self.settings.precision)
        warm_up(tagger)
        self.engine.check_speed(tagger, self.settings.max_slowdown)
        return tagger

    def _install(self, tagger: Tagger, path: Path) -> None:
        self.engine.install(tagger)
        self.model_path = path
        self._serves(tagger)
        self._health.serve()

    def _withdraw(self, cause: str) -> None:
        assert self.engine.tagger is not None  # the one that serves again
        self._serves(self.engine.tagger)
        self._reloader.withdraw(cause)

    def _serves(self, tagger: Tagger) -> None:
        self._batcher.budget = replace(self._batcher.budget, padded=tagger.pads)
        self.metrics.serves(tagger.model.version)


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What TLS needs, or None for plaintext; ValueError where a file is not fit for it."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return server_credentials(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _gate(settings: Settings, count: Callable[[str], None]) -> Gate:
    """The gate of these settings' tokens; ValueError where a file has none."""
    tokens = Tokens(settings.token_file) if settings.token_file else None
    admin_tokens = Tokens(settings.admin_token_file) if settings.admin_token_file else None
    if (tokens or admin_tokens) and not settings.tls_cert and not is_loopback(settings.address):
        logger.warning(
            "tokens go to %s in plaintext, readable on their way; give --tls-cert and --tls-key", settings.address
        )
    return Gate(tokens, admin_tokens, settings.max_calls, count)


def _tracing(url: str) -> "Tracing | None":
    if not url:
        return None
    try:
        from nerserver.tracing import Tracing  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(f"traces need {error.name}; run pip install 'nerstream[traces]'") from error
    return Tracing(url)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # Path.is_dir raises where a name is too long or a folder above may not be read


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        # Else a second server on the port fails instead of sharing its calls.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        # That Python has not taken yet: what is beyond would wait in vain, and even to refuse it costs what it lacks.
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING_CALLS),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),  # who says nothing goes, in plaintext too
        ("grpc.max_concurrent_streams", settings.max_streams),
        # Beyond the limit, so that a request that breaks it is told of it by name.
        ("grpc.max_receive_message_length", 2 * settings.max_request_bytes),
        ("grpc.max_send_message_length", MAX_REPLY_BYTES),
        ("grpc.http2.bdp_probe", 0),  # else megabytes are buffered for a caller that does not read
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),  # the one that works
        ("grpc.http2.min_ping_interval_without_data_ms", 500),  # clients may ping so often
        ("grpc.keepalive_permit_without_calls", 1),
    ]
