"""From gRPC's statuses to this package's errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from nerclient.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    NerstreamError,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

_CLASSES: dict[grpc.StatusCode, type[NerstreamError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}

_NOT_GRPC = "{address} does not speak gRPC over plaintext: give the server's gRPC port, and one without TLS"
_NO_HOST = "the host name in {address} cannot be found: check its spelling"
_NO_SERVER = "no server listens at {address}: start one there, or give the address of one that runs"
_NO_ROUTE = "cannot connect to {address}: check the address, the network and firewalls"
_CONNECTING = {  # words of gRPC's own while it connects
    "Connection refused": _NO_SERVER,
    "errors resolving": _NO_HOST,
    "DNS resolution failed": _NO_HOST,
    "Failed parsing HTTP/2": _NOT_GRPC,
    "Socket closed": _NOT_GRPC,
    "Connection reset": _NOT_GRPC,
    "andshak": _NOT_GRPC,
    "SSL": _NOT_GRPC,
    "failed to connect": _NO_ROUTE,
}
_TOO_LARGE = "message larger than max"  # gRPC's own words on either side
_LOST_STATUS = "Internal error from Core"  # a write failed as the stream ended: why it ended is lost (grpc#36066)
_BROKEN = (
    _LOST_STATUS,
    "Socket closed",
    "Connection reset",
    "Broken pipe",
    "ping timeout",
    "keepalive",
    "GOAWAY",
    "Stream removed",
)


def from_status(status: Status) -> NerstreamError:
    """The error for a status that a response holds in place of an answer."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _CLASSES.get(code, InternalError)(_one_line(status.message) or f"refused with {code.name}, no reason given")


def from_rpc_error(error: grpc.aio.AioRpcError, address: str) -> NerstreamError:
    """The error for a call to `address` that failed."""
    code, details = error.code(), _one_line(error.details() or "")
    if code is grpc.StatusCode.UNAVAILABLE or details == _LOST_STATUS:
        return Unavailable(_why_unavailable(details, address))
    if code is grpc.StatusCode.CANCELLED:  # the other side's: a caller's own cancellation is a CancelledError
        return Unavailable(f"the server at {address} cancelled the call, as one that stops does: try again")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"no answer from {address} in time: try again, send less at once, or allow more time")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        why = f"the server at {address} is full: {details or 'try again later'}"
        if _TOO_LARGE in details:
            why = f"a request to {address} or its reply is too large: send fewer inputs, or shorter ones ({details})"
        return ResourceExhausted(why, _retry_after(error))
    if code is grpc.StatusCode.UNIMPLEMENTED and "Method not found" in details:
        return Unimplemented(f"the server at {address} does not offer ner.v1: give the address of a nerstream server")
    return _CLASSES.get(code, InternalError)(details or f"the server at {address} failed with {code.name}")


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turns what gRPC raises inside the block into this package's errors."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, address) from error


def _why_unavailable(details: str, address: str) -> str:
    if details.startswith(("failed to connect", "errors resolving", "DNS resolution failed")):
        return next(why for words, why in _CONNECTING.items() if words in details).format(address=address)
    if any(words in details for words in _BROKEN):
        return f"the connection to {address} broke: check that the server still runs, then try again"
    return f"the server at {address} is unavailable: {details or 'try again later'}"


def _retry_after(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds from a google.rpc.RetryInfo, or None."""
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return None
    for detail in status.details if status else ():
        info = RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.ToTimedelta().total_seconds())
    return None


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."
