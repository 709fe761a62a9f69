"""Why a server does not start and why a request is not answered: reasons are exceptions, our bugs ids in the log."""

import logging
import traceback
from dataclasses import dataclass
from uuid import uuid4

logger = logging.getLogger(__name__)
LEAST_RETRY_S, MOST_RETRY_S = 0.05, 10.0  # however short or long the wait that is forecast


class StartError(Exception):
    """The server cannot start: one line that says what, why and what to do."""


class RequestError(Exception):
    """A request is refused; the message is for the caller and never holds the caller's text.

    RequestError
    ├── InvalidError         malformed, or beyond a limit
    ├── NotBuiltError        asks for an option that this server has not built
    ├── NotFoundError        names a model or version that was never served
    ├── QueueFullError       too much waits already
    ├── TooLateError         what waits already would take longer than the deadline allows
    ├── BusyError            as many calls are in flight as may be
    ├── DeadlineError        nobody waits for the answer any more
    ├── PreconditionError    asks for a choice of versions, and there is no folder to choose in
    ├── RefusedError         asks for a version that is not fit to serve
    └── UnavailableError     no model is loaded, or the server is draining
    """

    retry_s: float | None = None  # when sending again may help, in seconds, where that is known


class InvalidError(RequestError):
    """Malformed, or beyond a limit: what is wrong, what came and what to send."""


class NotBuiltError(RequestError):
    """Asks for an option that this server has not built, by its name."""


class NotFoundError(RequestError):
    """Names a model or version that was never served here."""


class QueueFullError(RequestError):
    """Too much waits already; `retry_s` is when it may have gone, in seconds."""

    def __init__(self, wait_s: float) -> None:
        self.retry_s = _retry_s(wait_s)
        super().__init__(f"the queue is full; send again after {self.retry_s:.2f} s, or use StreamTag, which waits")


class TooLateError(RequestError):
    """What waits already would take longer than the deadline allows; `retry_s` is when it may have gone, in seconds."""

    def __init__(self, wait_s: float, left_s: float) -> None:
        self.retry_s = _retry_s(wait_s - left_s)
        super().__init__(
            f"what waits would take longer than the deadline allows; send again after {self.retry_s:.2f} s, "
            "or allow more time"
        )


class BusyError(RequestError):
    """As many calls are in flight as may be; `retry_s` is when to try again, in seconds."""

    def __init__(self, most: int, retry_s: float) -> None:
        super().__init__(f"{most} calls are in flight, the most there may be; send again after {retry_s:.2f} s")
        self.retry_s = retry_s


class DeadlineError(RequestError):
    """The caller's deadline passed before the last of its work had begun."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before all of the work had begun")


class PreconditionError(RequestError):
    """The server does not follow a folder of versions, or cannot use it."""


class RefusedError(RequestError):
    """A checkpoint is not fit to serve: the cause."""


class UnavailableError(RequestError):
    """No model is loaded yet, or the server is draining."""


def _retry_s(wait_s: float) -> float:
    return round(min(max(wait_s, LEAST_RETRY_S), MOST_RETRY_S), 2)


@dataclass(frozen=True)
class Failure:
    """A bug of ours, as the caller may know it."""

    error_id: str

    def __str__(self) -> str:
        return f"internal error {self.error_id}; report this id to whoever runs the server"


def without_message(error: BaseException) -> str:
    """An exception and its causes in lines, by type and place alone: their messages may hold a user's text."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines += [
            f"{type(cause).__module__}.{type(cause).__qualname__} at\n",
            *traceback.format_tb(cause.__traceback__),
        ]
        cause = cause.__cause__ or cause.__context__
    return "".join(lines).rstrip()


def log_failure(error: BaseException) -> Failure:
    """Log an exception that nobody expected, without its message."""
    failure = Failure(uuid4().hex[:12])
    logger.error("internal error %s: %s", failure.error_id, without_message(error))
    return failure
