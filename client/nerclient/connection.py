"""The connection to one server, and single calls over it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from nerclient import status
from nerclient.address import check, is_loopback
from nerclient.credentials import Tls, bearer
from nerclient.errors import NerstreamError, ResourceExhausted, Unavailable
from nerclient.retry import Retry

_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # the one that grpc 1.85 obeys
    ("grpc.http2.bdp_probe", 0),  # otherwise megabytes pile up in front of a reader that pauses
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_send_message_length", -1),  # the server's Limits rule
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
]
_NO_PROXY = ("grpc.enable_http_proxy", 0)
_Reply = TypeVar("_Reply")


class Connection:
    """A channel that is there between `open` and `close`, with the caller's proof and patience.

    `forget` is called when what is known of the server may no longer hold. `metadata` goes with every call. Raises
    ValueError for an address that is not HOST:PORT, and for a token that would travel in the clear.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None,
        token: str | None,
        timeout_s: float,
        retry: Retry,
        forget: Callable[[], None],
    ) -> None:
        check(address)
        local = is_loopback(address)
        if token is not None and tls is None and not local:
            raise ValueError(f"a token for {address} could be read on its way: use TLS (tls=, or --tls) with it")
        self.address = address
        self.timeout_s = timeout_s
        self.retry = retry
        self.metadata = () if token is None else (bearer(token),)
        self._tls = tls
        self._options = [*_OPTIONS, _NO_PROXY] if local else _OPTIONS  # a proxy would see the token, and not get here
        self._forget = forget
        self._channel: grpc.aio.Channel | None = None
        self._reached = False

    def open(self) -> None:
        """Reads the files of `tls`; what Tls.credentials raises passes."""
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=self._options)
        else:
            self._channel = grpc.aio.secure_channel(self.address, self._tls.credentials(), options=self._options)

    async def close(self) -> None:
        """Cancels what still runs."""
        if self._channel is not None:
            await self._channel.close()
        self._channel = None

    def channel(self) -> grpc.aio.Channel:
        """The channel; if its connection went away, what was learnt over that one is forgotten."""
        if self._channel is None:
            raise RuntimeError("the client is not connected: use it inside `async with Client(...) as client`")
        if self._channel.get_state() is not grpc.ChannelConnectivity.READY:
            self._forget()
        return self._channel

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns what gRPC raises inside the block into this package's errors."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.address, tls=self._tls is not None) from error

    async def unary(self, method: Callable[..., Awaitable[_Reply]], request: Any, *, again: bool = True) -> _Reply:
        """One call, tried again within the timeout while the server is full or, if it was reached before, away.

        Without `again` it is sent once, since what it does must not be done twice.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + self.timeout_s
        failures = 0
        while True:
            try:
                with self.translated():
                    reply = await method(request, timeout=deadline - now(), metadata=self.metadata)
            except NerstreamError as error:
                if isinstance(error, Unavailable):
                    self._forget()
                failures += 1
                delay_s = self._delay_s(error, failures) if again else None
                if delay_s is None or now() + delay_s >= deadline:
                    raise
            else:
                self._reached = True
                return reply
            await asyncio.sleep(delay_s)

    def _delay_s(self, error: NerstreamError, failures: int) -> float | None:
        if isinstance(error, ResourceExhausted) and error.retry_after_s is not None:
            return max(error.retry_after_s, self.retry.first_s)  # a server that asks for no wait is not hammered
        if isinstance(error, Unavailable) and self._reached:
            return self.retry.delay_s(failures)
        return None
