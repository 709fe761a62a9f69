"""The client library and the command `nerclient`: text in, named entities out, over one gRPC stream."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nerclient.client import Client
    from nerclient.errors import (
        DeadlineExceeded,
        InternalError,
        InvalidInput,
        NerstreamError,
        NotFound,
        ProtocolError,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
    )
    from nerclient.results import Entity, Input, Limits, Model, Result, Token
    from nerclient.retry import Retry
    from nerclient.sync import SyncClient

__all__ = [
    "Client",
    "DeadlineExceeded",
    "Entity",
    "Input",
    "InternalError",
    "InvalidInput",
    "Limits",
    "Model",
    "NerstreamError",
    "NotFound",
    "ProtocolError",
    "ResourceExhausted",
    "Result",
    "Retry",
    "SyncClient",
    "Token",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]


def __getattr__(name: str) -> object:
    """Imports a name when it is first used, so that `nerclient --help` does not wait for grpc."""
    if name in __all__:
        for home in ("errors", "results", "retry", "client", "sync"):
            module = import_module(f"nerclient.{home}")
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
