"""Several worker processes on one address, and the small one that starts, replaces and stops them."""

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from nerserver import logs
from nerserver.address import check_address, reserve
from nerserver.errors import StartError
from nerserver.merged import MergedProbes
from nerserver.probes import Probes
from nerserver.settings import Settings
from nerserver.signals import STOPPING, on_stopping

if TYPE_CHECKING:  # it brings torch, which the supervisor does without
    from nerserver.server import Server

logger = logging.getLogger(__name__)
Greeting = Callable[["Server", str], Sequence[str]]  # from the address of the probes
BACKOFF_S = 0.1  # before a worker that died is replaced; doubled each time
MAX_BACKOFF_S = 5.0
PROVEN_S = 10.0  # a worker that served for so long begins anew with BACKOFF_S
OVERTIME_S = 4.0  # that workers may take after draining; they end themselves before
HEARTBEAT_S = 1.0  # between the heartbeats of a worker's event loop
START_S = 300.0  # until the first of them: to import torch from a slow disk takes long
HUNG_S = 20.0  # without one, a worker is killed: its share of the connections would wait for ever


async def supervise(settings: Settings, greeting: Greeting, announce: Callable[[Sequence[str]], None]) -> int:
    """Serve by `settings.workers` processes until SIGTERM or SIGINT, and return the exit status.

    Each is told to answer what it read and stop when this process is told, or dies; a second signal kills them.
    `announce` gets a worker's greeting when all serve. Raises StartError where one cannot at first.
    """
    return await _Supervisor(settings, greeting, announce).run()


@dataclass
class _Worker:
    """A worker process that has not ended."""

    process: SpawnProcess
    connection: Connection  # to close it is to tell the worker to stop
    heartbeats: ctypes.c_uint64  # that its event loop has given
    http_address: str = ""
    serving_since: float | None = None  # by the event loop's clock


class _Supervisor:
    def __init__(self, settings: Settings, greeting: Greeting, announce: Callable[[Sequence[str]], None]) -> None:
        if not hasattr(os, "sched_getaffinity"):
            raise StartError("several workers need Linux; use --workers 1")
        try:
            check_address(settings.address, settings.insecure or settings.tls_cert is not None)
            self._reserved, address = reserve(settings.address)
        except ValueError as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(
                f"cannot listen on {settings.address} ({error.strerror}); give another --address"
            ) from error
        self._settings = replace(
            settings,
            address=address,
            http_address="127.0.0.1:0" if settings.http_address else "",
            threads=settings.threads or max(len(os.sched_getaffinity(0)) // settings.workers, 1),
        )
        self._http_address = settings.http_address
        self._greeting = greeting
        self._announce = announce
        self._announced = False
        self._workers: dict[int, _Worker] = {}  # by number
        self._replaced = 0
        self._stop = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        probes = self._probes(loop)
        if probes:
            self._http_address = probes.address
        on_stopping(self._on_signal)
        try:
            await asyncio.gather(*(self._keep(number) for number in range(self._settings.workers)))
        finally:
            self._kill()
            if probes:
                probes.close()
            for each in self._reserved:
                each.close()
        logger.info("all workers have stopped")
        return self._status

    async def _keep(self, number: int) -> None:
        """Have a worker of this number until told to stop."""
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_S
        while not self._stop.is_set():
            worker = self._workers[number] = self._start(number)
            watch = asyncio.create_task(self._watch(number, worker))
            told = await self._first_words(worker)
            if "failure" in told and not self._announced:
                raise StartError(told["failure"])
            if "greeting" in told:
                worker.http_address, worker.serving_since = told["http_address"], loop.time()
                self._announce_once(told["greeting"])
            await _readable(worker.process.sentinel)
            watch.cancel()
            worker.process.join()
            worker.connection.close()
            del self._workers[number]
            end = _end(worker.process.exitcode)
            if self._stop.is_set():
                if worker.serving_since is not None and worker.process.exitcode:
                    logger.error("worker %d (pid %d) did not stop well: %s", number, worker.process.pid, end)
                    self._status = 1
                return
            if not self._announced:
                raise StartError(f"worker {number} ended ({end}) before all workers served; see the log above")
            if worker.serving_since is not None and loop.time() - worker.serving_since > PROVEN_S:
                backoff_s = BACKOFF_S
            why = f": {told['failure']}" if "failure" in told else ""
            logger.warning(
                "worker %d (pid %d) ended (%s)%s; another starts in %.1f s",
                number,
                worker.process.pid,
                end,
                why,
                backoff_s,
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            self._replaced += 1

    def _start(self, number: int) -> _Worker:
        spawn = get_context("spawn")
        ours, theirs = spawn.Pipe()
        heartbeats = spawn.RawValue(ctypes.c_uint64)
        process = spawn.Process(
            target=_work, args=(self._settings, number, theirs, heartbeats, self._greeting, self._http_address)
        )
        with _signals_blocked():
            process.start()
        theirs.close()
        return _Worker(process, ours, heartbeats)

    async def _watch(self, number: int, worker: _Worker) -> None:
        """Kill a worker whose event loop has no heartbeat.

        Counted in this loop's own turns, so that a pause of the whole machine kills nobody.
        """
        silent_s, last = 0.0, 0
        while silent_s < (HUNG_S if last else START_S):
            await asyncio.sleep(HEARTBEAT_S)
            heartbeats = worker.heartbeats.value
            silent_s, last = (silent_s + HEARTBEAT_S if heartbeats == last else 0.0), heartbeats
        logger.error(
            "worker %d (pid %d) had no heartbeat for %.0f s and is killed", number, worker.process.pid, silent_s
        )
        worker.process.kill()

    async def _first_words(self, worker: _Worker) -> dict[str, Any]:
        """What a worker says when it serves or cannot; nothing when it dies before."""
        await _readable(worker.connection.fileno())
        try:
            told: dict[str, Any] = json.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            told = {}
        return told

    def _announce_once(self, lines: Sequence[str]) -> None:
        all_serve = sum(each.serving_since is not None for each in self._workers.values()) == self._settings.workers
        if all_serve and not self._announced and not self._stop.is_set():
            self._announced = True
            self._announce(lines)

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            self._kill()
            os._exit(128 + number)
        self._stop.set()
        for worker in self._workers.values():
            if worker.serving_since is None:
                worker.process.kill()
            else:
                worker.connection.close()
        asyncio.get_running_loop().call_later(self._settings.drain_s + OVERTIME_S, self._kill)

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()

    def _probes(self, loop: asyncio.AbstractEventLoop) -> Probes | None:
        if not self._http_address:
            return None
        merged = MergedProbes(self._serving, lambda: self._replaced)
        registry = CollectorRegistry()
        registry.register(merged)

        def not_ready() -> str | None:
            return "the server is draining" if self._stop.is_set() else merged.not_ready()

        try:
            return Probes(self._http_address, self._settings.insecure, loop, not_ready, registry)
        except ValueError as error:
            raise StartError(str(error)) from error

    def _serving(self) -> dict[int, str]:
        """The address of the probes of each worker that serves, by its number."""
        return {number: each.http_address for number, each in list(self._workers.items()) if each.http_address}


def _work(
    settings: Settings,
    number: int,
    supervisor: Connection,
    heartbeats: ctypes.c_uint64,
    greeting: Greeting,
    http_address: str,
) -> None:
    """Be a worker. Signals are blocked: it stops when the supervisor closes the connection, or is no more."""
    from nerserver.life import serve  # noqa: PLC0415

    logs.configure(settings.log_format, number)

    def tell(**words: Any) -> None:
        with suppress(OSError):
            supervisor.send_bytes(json.dumps(words).encode())

    async def work() -> None:
        _beat(heartbeats)
        await serve(
            settings,
            lambda server, own: tell(greeting=greeting(server, http_address), http_address=own),
            supervisor,
        )

    try:
        asyncio.run(work())
    except StartError as error:
        tell(failure=str(error))
        sys.exit(1)
    except Exception:
        logger.critical("an exception that nobody caught", exc_info=True)
        sys.exit(1)


def _beat(heartbeats: ctypes.c_uint64) -> None:
    """Give a heartbeat now and for as long as the event loop runs."""
    heartbeats.value += 1
    asyncio.get_running_loop().call_later(HEARTBEAT_S, _beat, heartbeats)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes that start within have STOPPING blocked for ever: a terminal sends them to all at once."""
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _end(status: int | None) -> str:
    assert status is not None
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
