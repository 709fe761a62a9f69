"""What can go wrong, as one tree. Every message is one line: what, why, what to do; never the text that was sent.

NerstreamError
├── InvalidInput          cannot be tagged as it is: not Unicode, over a limit, or refused by the server
├── NotFound              the server does not know that model or version
├── Unimplemented         the server does not offer this call or option
├── Unauthenticated       the server wants a token, or another one
├── Untrusted             the server does not prove that it is the one meant: its certificate, or that it has none
├── Refused               the server is in no state to do it, such as a checkpoint that does not prove good
├── ResourceExhausted     the server is full, or a message is too large
├── DeadlineExceeded      no answer in time
├── Unavailable           the server cannot be reached, is stopping, or has no model
├── InternalError         a bug or a failure in the server
└── ProtocolError         the server broke the contract of ner.v1: its version and the client's do not fit
"""
# ruff: noqa: N818 the tree names what happened, as gRPC's statuses do


class NerstreamError(Exception):
    """Base of every error that this package raises or puts in `Result.error`."""


class InvalidInput(NerstreamError):
    """An input, or a whole request, cannot be tagged as it is; sending it again does not help."""


class NotFound(NerstreamError):
    """The server does not know the model or version asked for."""


class Unimplemented(NerstreamError):
    """The server does not offer the call or option asked for."""


class Unauthenticated(NerstreamError):
    """The server wants a token, or does not accept the one given."""


class Untrusted(NerstreamError):
    """The server is not proven to be the one meant; nothing was sent to it, and trying again does not help."""


class Refused(NerstreamError):
    """The server understood, and is in no state to do it; its message says why."""


class ResourceExhausted(NerstreamError):
    """The server is full, or a message is too large. `retry_after_s` is the wait it asks for, if it names one."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(NerstreamError):
    """No answer came in time."""


class Unavailable(NerstreamError):
    """The server cannot be reached, is stopping, or has no model; trying again later may help."""


class InternalError(NerstreamError):
    """Something failed in the server; its message may hold an error id to report."""


class ProtocolError(NerstreamError):
    """The server's answer breaks the contract of ner.v1."""
