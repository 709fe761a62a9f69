"""Who gets in: bearer tokens by what a call is for, and only so many calls at once."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health

from nerserver.admin import NAME as ADMIN
from nerserver.errors import BusyError
from nerserver.rotated import Rotated, read_secret
from nerserver.wire import CODES, details

LEAST_CHARACTERS, MOST_CHARACTERS, MOST_TOKENS = 16, 1024, 1000
WATCHES = 100  # of health, counted apart: strangers take no caller's place; a Check ends at once and always gets in
MAX_METADATA_BYTES = 16 << 10  # gRPC's own limit holds only for clients who acknowledge it
RETRY_S = 1.0

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Tokens:
    """The tokens of a file, all valid; it is read again when it changes."""

    def __init__(self, path: Path) -> None:
        """ValueError says what is wrong with the file, by the number of a line and never by its words."""
        self._digests = Rotated([path], partial(_digests, path))

    def hold(self, token: str) -> bool:
        """Whether this is one of them, in a time that tells nothing of them."""
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        return sum([hmac.compare_digest(digest, each) for each in self._digests.get()]) > 0


class Gate(grpc.aio.ServerInterceptor):
    """Lets a call in that carries a token of its service's file, while fewer than `max_calls` are in flight.

    Health is open to all, with WATCHES at once. Whoever has no token cannot tell what is served from what is not.
    """

    def __init__(
        self, tokens: Tokens | None, admin_tokens: Tokens | None, max_calls: int, count: Callable[[str], None]
    ) -> None:
        """`count` is told why each call that does not get in does not: denied, busy or oversize."""
        self._tokens = tokens
        self._count = count
        self._admin_tokens = admin_tokens
        self._calls = _Calls(max_calls)
        self._watches = _Calls(WATCHES)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The handler of a call that gets in, or one that says why it does not and reads nothing."""
        service = handler_call_details.method.strip("/").rpartition("/")[0]
        metadata: Sequence[tuple[str, str | bytes]] = handler_call_details.invocation_metadata or ()
        if sum(len(key) + len(value) for key, value in metadata) > MAX_METADATA_BYTES:
            self._count("oversize")
            return _OVERSIZE
        is_health = service == health.SERVICE_NAME
        tokens = self._admin_tokens if service == ADMIN and self._admin_tokens else self._tokens
        if not is_health and tokens and not tokens.hold(_bearer(metadata)):
            self._count("denied")
            return _DENIED
        if is_health and not handler_call_details.method.endswith("/Watch"):
            return await continuation(handler_call_details)
        calls = self._watches if is_health else self._calls
        if calls.enter():
            return await continuation(handler_call_details)
        self._count("busy")
        return calls.full


class _Calls:
    """How many calls are in flight, of at most `most`."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self._most = most
        busy = BusyError(most, RETRY_S)
        self.full = _refusal(CODES[BusyError], str(busy), details(busy))

    def enter(self) -> bool:
        """Count the present call until it ends, however it ends; False where there is no room for it."""
        if self.count >= self._most:
            return False
        self.count += 1
        call = asyncio.current_task()  # gRPC's, which lives as long as the call
        assert call is not None
        call.add_done_callback(self._leave)
        return True

    def _leave(self, _: asyncio.Task[Any]) -> None:
        self.count -= 1


def _digests(path: Path) -> list[bytes]:
    try:
        lines = read_secret(path).decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {number}: a token is ASCII; make one: openssl rand -hex 32") from None
    found = []
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if not LEAST_CHARACTERS <= len(token) <= MOST_CHARACTERS or not token.isprintable() or " " in token:
            raise ValueError(
                f"{path}, line {number}: a token is {LEAST_CHARACTERS} to {MOST_CHARACTERS} characters "
                "without white space; make one: openssl rand -hex 32"
            )
        found.append(sha256(token.encode("ascii")).digest())
    if not found:
        raise ValueError(f"{path} holds no token; write one a line: openssl rand -hex 32")
    if len(found) > MOST_TOKENS:
        raise ValueError(f"{path} holds {len(found)} tokens, expected at most {MOST_TOKENS}")
    return found


def _bearer(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """The token that a call carries, or "" where it carries none or several (RFC 6750, section 2.1)."""
    found = [value for key, value in metadata if key == "authorization"]
    if len(found) != 1 or not isinstance(found[0], str):
        return ""
    scheme, _, token = found[0].partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _refusal(code: grpc.StatusCode, why: str, trailing: tuple[tuple[str, bytes], ...] = ()) -> "Handler":
    """A handler that ends a call at once. That of two streams suits every arity, and reads nothing."""

    async def refuse(_: object, context: Context) -> NoReturn:
        await context.abort(code, why, trailing)

    return grpc.stream_stream_rpc_method_handler(refuse)


_DENIED = _refusal(grpc.StatusCode.UNAUTHENTICATED, "a known token is needed: send authorization: Bearer TOKEN")
_OVERSIZE = _refusal(
    grpc.StatusCode.INVALID_ARGUMENT, f"the metadata is beyond {MAX_METADATA_BYTES} bytes, the most there may be"
)
