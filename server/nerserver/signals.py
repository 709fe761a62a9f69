"""The signals that stop a server, as its one process and as the supervisor of several."""

import asyncio
import signal
from collections.abc import Callable

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_stopping(handle: Callable[[int], None]) -> None:
    """Have the running event loop hand these signals' numbers to `handle`; what is ignored stays so, as nohup wants."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, handle, number)
