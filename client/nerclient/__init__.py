"""The client library and the command `nerclient`: text in, named entities out, over one gRPC stream."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nerclient.admin import Admin
    from nerclient.client import Client
    from nerclient.credentials import Tls
    from nerclient.errors import (
        DeadlineExceeded,
        InternalError,
        InvalidInput,
        NerstreamError,
        NotFound,
        ProtocolError,
        Refused,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        Untrusted,
    )
    from nerclient.results import Entity, Input, Limits, Model, Result, Token, Version
    from nerclient.retry import Retry
    from nerclient.sync import SyncClient

__all__ = [
    "Admin",
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
    "Refused",
    "ResourceExhausted",
    "Result",
    "Retry",
    "SyncClient",
    "Tls",
    "Token",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Untrusted",
    "Version",
]


def __getattr__(name: str) -> object:
    """Imports a name when it is first used, so that `nerclient --help` does not wait for grpc."""
    if name in __all__:
        for home in ("errors", "results", "retry", "credentials", "client", "sync", "admin"):
            module = import_module(f"nerclient.{home}")
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
