"""The life of one server process: started, announced, told to stop, drained, ended."""

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable

from nerserver.server import Server
from nerserver.settings import Settings

logger = logging.getLogger(__name__)
OVERTIME_S = 2.0  # that closing may take after draining


async def serve(settings: Settings, announce: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was read; a second signal ends the process at once.

    `announce` is called when it serves. Raises StartError where it cannot.
    """
    server = Server(settings)
    await server.startup()
    gc.collect()
    gc.freeze()  # what start-up made stays: the collector need not stop every caller to look at it again
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, server, number)
    try:
        announce(server)
        await server.main()
    finally:
        await server.shutdown()
    logger.info("stopped")


def _on_signal(server: Server, number: int) -> None:
    if server.stopping:
        os._exit(128 + number)
    logger.info("stopping: answering what was read, for %s s at most", server.settings.drain_s)
    server.stop()
    # Whatever hangs, a stopping server does not.
    timer = threading.Timer(server.settings.drain_s + OVERTIME_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
