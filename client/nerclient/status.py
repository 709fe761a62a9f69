"""From gRPC's statuses to this package's errors."""

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
    Refused,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Untrusted,
)

_CLASSES: dict[grpc.StatusCode, type[NerstreamError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.ABORTED: Refused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}

_NO_HOST = "the host name in {address} cannot be found: check its spelling"
_NO_SERVER = "no server listens at {address}: start one there, or give the address of one that runs"
_NO_ROUTE = "cannot connect to {address}: check the address, the network and firewalls"
_NOT_GRPC = "{address} does not speak gRPC over plaintext: give the server's gRPC port, and --tls if it speaks TLS"
# A server that dies just then looks the same, so these two stay Unavailable.
_NO_WELCOME = (
    "{address} closed the connection as TLS began: if it wants a client certificate, give --cert and --key, or others"
)
_CONNECTING = {  # words of gRPC's own while it connects, over plaintext
    "Connection refused": _NO_SERVER,
    "errors resolving": _NO_HOST,
    "DNS resolution failed": _NO_HOST,
    "Failed parsing HTTP/2": _NOT_GRPC,
    "Socket closed": _NOT_GRPC,
    "Connection reset": _NOT_GRPC,
    "failed to connect": _NO_ROUTE,
}
_CONNECTING_TLS = _CONNECTING | {"Socket closed": _NO_WELCOME, "Connection reset": _NO_WELCOME}
_UNTRUSTED = {  # the same, of a server that is not proven to be the one meant
    "certificate has expired": "the server's certificate at {address} has expired: renew it, or check the clock here",
    "not yet valid": "the server's certificate at {address} is not valid yet: check the clocks",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate at {address} is not signed by one that is trusted here: "
    "give --ca, the certificate of who signed it",
    "Hostname Verification": "the server's certificate at {address} is for another name: use an address that it names",
    "WRONG_VERSION_NUMBER": "{address} does not speak TLS: give the address of a server that does, or leave TLS out",
    "ALPN": "{address} speaks TLS but not gRPC: give the server's gRPC port",
    "security handshaker": "grpc cannot use the files given for TLS: check what --ca, --cert and --key hold",
    "Tls handshake failed": "{address} and this client cannot agree on TLS: {details}",
}
_STARTS = ("failed to connect", "errors resolving", "DNS resolution failed")
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


def from_rpc_error(error: grpc.aio.AioRpcError, address: str, *, tls: bool = False) -> NerstreamError:
    """The error for a call to `address` that failed."""
    code, details = error.code(), _one_line(error.details() or "")
    if code is grpc.StatusCode.UNAVAILABLE or details == _LOST_STATUS:
        return _unavailable(details, address, tls)
    if code is grpc.StatusCode.CANCELLED:  # the other side's: a caller's own cancellation is a CancelledError
        return Unavailable(f"the server at {address} cancelled the call, since it stops or has too many: try again")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"no answer from {address} in time: try again, send less at once, or allow more time")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        why = f"the server at {address} is full: {details or 'try again later'}"
        if _TOO_LARGE in details:
            why = f"a request to {address} or its reply is too large: send fewer inputs, or shorter ones ({details})"
        return ResourceExhausted(why, _retry_after(error))
    if code is grpc.StatusCode.UNIMPLEMENTED and "Method not found" in details:
        return Unimplemented(f"the server at {address} does not offer ner.v1: give the address of a nerstream server")
    kind = _CLASSES.get(code, InternalError)
    why = details or f"the server at {address} failed with {code.name}"
    if kind is Unauthenticated:
        why = f"the server at {address} wants a token that it knows: give --token-file, or token= ({why})"
    return kind(why)


def _unavailable(details: str, address: str, tls: bool) -> NerstreamError:
    if details.startswith(_STARTS):
        for words, why in _UNTRUSTED.items():
            if words in details:
                return Untrusted(why.format(address=address, details=details))
        why = next(why for words, why in (_CONNECTING_TLS if tls else _CONNECTING).items() if words in details)
        return Unavailable(why.format(address=address))
    if any(words in details for words in _BROKEN):
        return Unavailable(f"the connection to {address} broke: check that the server still runs, then try again")
    return Unavailable(f"the server at {address} is unavailable: {details or 'try again later'}")


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
