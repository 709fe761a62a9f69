"""The log of a server process, on stderr: lines for people or JSON for machines, exceptions without their messages."""

import asyncio
import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from nerserver.errors import without_message
from nerserver.settings import LogFormat

logger = logging.getLogger(__name__)


def configure(log_format: LogFormat, worker: int | None = None) -> None:
    """Log INFO and above from here on, each line with the number of the worker where there are several."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json(worker) if log_format == "json" else _Console(worker))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("torch").setLevel(logging.WARNING)  # it counts too, when it ends early
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts changes
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it repeats itself while a collector is away
    sys.excepthook = _on_uncaught
    threading.excepthook = lambda args: _on_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def on_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what an event loop has nobody to tell; the rest of its words would show exceptions, arguments and results."""
    logger.error("event loop: %s", context["message"].partition("(")[0], exc_info=context.get("exception"))


def _on_uncaught(kind: type[BaseException], error: BaseException | None, _: TracebackType | None) -> None:
    if issubclass(kind, (KeyboardInterrupt, SystemExit)):
        return
    logger.critical("an exception that nobody caught", exc_info=error)


class _Console(logging.Formatter):
    """One line a record, and its exception below."""

    def __init__(self, worker: int | None) -> None:
        who = "" if worker is None else f" worker {worker} (%(process)d)"
        super().__init__(f"%(asctime)s %(levelname)s{who} %(name)s: %(message)s")

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Without its message."""
        return without_message(ei[1])


class _Json(JsonFormatter):
    """One JSON object a record, on one line."""

    def __init__(self, worker: int | None) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(message)s" + ("" if worker is None else " %(process)d"),
            rename_fields={"asctime": "timestamp", "levelname": "level", "name": "logger", "exc_info": "traceback"}
            | ({} if worker is None else {"process": "pid"}),
            static_fields={} if worker is None else {"worker": worker},
            json_ensure_ascii=False,
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """As RFC 3339 has it, in UTC."""
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Without its message."""
        return without_message(ei[1])
