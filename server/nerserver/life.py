"""The life of one server process: started, announced, told to stop, drained, ended."""

import asyncio
import gc
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

from nerserver.errors import StartError
from nerserver.logs import on_loop_error
from nerserver.probes import Probes
from nerserver.server import Server
from nerserver.service import NO_MODEL
from nerserver.settings import Settings
from nerserver.signals import on_stopping

logger = logging.getLogger(__name__)
OVERTIME_S = 2.0  # that closing may take after draining


async def serve(
    settings: Settings, announce: Callable[[Server, str], None], supervisor: Connection | None = None
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then answer what was read; a second signal ends the process at once.

    `announce` is called when it serves, with the address of its probes or "". A worker stops as well when its
    supervisor closes the connection or dies. Raises StartError where it cannot serve.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_error)
    server = Server(settings)
    listening = threading.Event()
    probes = _probes(server, listening, loop)
    try:
        await server.startup()
        gc.collect()
        gc.freeze()  # what start-up made stays: the collector need not stop every caller to look at it again
        on_stopping(partial(_on_signal, server))
        if supervisor is not None:
            loop.add_reader(supervisor.fileno(), _on_supervisor_gone, server, supervisor, loop)
        listening.set()
        try:
            announce(server, probes.address if probes else "")
            await server.main()
        finally:
            await server.shutdown()
    finally:
        if probes:
            probes.close()
    logger.info("stopped")


def _probes(server: Server, listening: threading.Event, loop: asyncio.AbstractEventLoop) -> Probes | None:
    def not_ready() -> str | None:
        if server.stopping:
            return "the server is draining"
        if server.engine.model is None:
            return NO_MODEL
        return None if listening.is_set() else "the server is starting"

    settings = server.settings
    if not settings.http_address:
        return None
    try:
        return Probes(settings.http_address, settings.insecure, loop, not_ready, server.metrics.registry)
    except ValueError as error:
        raise StartError(str(error)) from error


def _on_signal(server: Server, number: int) -> None:
    if server.stopping:
        os._exit(128 + number)
    _stop(server)


def _on_supervisor_gone(server: Server, supervisor: Connection, loop: asyncio.AbstractEventLoop) -> None:
    loop.remove_reader(supervisor.fileno())
    _stop(server)


def _stop(server: Server) -> None:
    logger.info("stopping: answering what was read, for %s s at most", server.settings.drain_s)
    server.stop()
    # Whatever hangs, a stopping server does not.
    timer = threading.Timer(server.settings.drain_s + OVERTIME_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
