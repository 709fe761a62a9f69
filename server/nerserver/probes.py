"""Whether the process lives, whether it is ready and what it counts, for orchestrators, in plain HTTP.

It runs in threads of its own, so that an event loop that is blocked is seen.
"""

import asyncio
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from nerserver.address import check_address
from nerserver.errors import log_failure

logger = logging.getLogger(__name__)
TEXT = "text/plain; charset=utf-8"
ALIVE_S = 1.0  # that the event loop may take to answer
MAX_CONNECTIONS = 32
MAX_REQUEST_BYTES = 16 << 10
POLL_S = 0.2  # between looks at how long connections last, and whether to end
CONNECTION_S = 10.0  # that a connection may last, however slowly its request comes


class Probes:
    """Serves /healthz, /readyz and /metrics at HOST:PORT until closed.

    `not_ready` gives the reason in one line, or None when the server is ready; it and `registry` are asked in threads
    of the probes. ValueError where it cannot listen there, or should not: see `check_address`.
    """

    def __init__(
        self,
        address: str,
        insecure: bool,
        loop: asyncio.AbstractEventLoop,
        not_ready: Callable[[], str | None],
        registry: Collector,
    ) -> None:
        check_address(address, insecure, "--http-address")
        self._loop = loop
        self._pages = {"/healthz": self._health, "/readyz": self._readiness, "/metrics": self._metrics}
        self._not_ready = not_ready
        self._registry = registry
        host, _, port = address.rpartition(":")
        self._server = _Server(host.strip("[]"), int(port), self._answer)
        self.address = f"{host}:{self._server.server_address[1]}"  # with the real port
        threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="probes", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, type and body of the page at a path."""
        page = self._pages.get(path.partition("?")[0])
        return page(accept) if page else (HTTPStatus.NOT_FOUND, TEXT, b"try /healthz, /readyz or /metrics\n")

    def _health(self, _: str) -> tuple[HTTPStatus, str, bytes]:
        answered = threading.Event()
        try:
            self._loop.call_soon_threadsafe(answered.set)
        except RuntimeError:
            return _verdict("the event loop has ended")
        return _verdict(None if answered.wait(ALIVE_S) else f"the event loop did not answer within {ALIVE_S:g} s")

    def _readiness(self, _: str) -> tuple[HTTPStatus, str, bytes]:
        return _verdict(self._not_ready())

    def _metrics(self, accept: str) -> tuple[HTTPStatus, str, bytes]:
        encode, content_type = choose_encoder(accept)
        return HTTPStatus.OK, content_type, encode(self._registry)


def _verdict(reason: str | None) -> tuple[HTTPStatus, str, bytes]:
    if reason is None:
        return HTTPStatus.OK, TEXT, b"ok\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, TEXT, f"{reason}\n".encode()


class _Server(socketserver.ThreadingTCPServer):
    """A thread a connection, of which there are a bounded number, each for a bounded time."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, host: str, port: int, answer: Callable[[str, str], tuple[HTTPStatus, str, bytes]]) -> None:
        self.answer = answer
        self._since: dict[socket.socket, float] = {}
        self.address_family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        super().__init__(place, _Request)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin with a connection, and end the oldest where there are too many."""
        if len(self._since) >= MAX_CONNECTIONS:
            self._end(next(iter(self._since)))
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that last too long; called every POLL_S."""
        now = time.monotonic()
        for request, since in list(self._since.items()):
            if now - since > CONNECTION_S:
                self._end(request)

    def _end(self, request: socket.socket) -> None:
        self._since.pop(request, None)
        with suppress(OSError):  # it has ended by itself meanwhile
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a client that left in the middle."""
        logger.debug("a probe's connection broke", exc_info=True)


class _Request(BaseHTTPRequestHandler):
    """One request; HTTP/1.0, so that the connection ends with its answer."""

    server: _Server

    def setup(self) -> None:
        """Read no more than a request should have."""
        super().setup()
        self.rfile = _Limited(self.rfile)  # type: ignore[assignment]

    def parse_request(self) -> bool:
        """Whether it is a request to be answered; all others are."""
        if not super().parse_request():
            return False
        if self.command in ("GET", "HEAD"):
            return True
        self._reply(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"only GET and HEAD\n", {"Allow": "GET, HEAD"})
        return False

    def do_GET(self) -> None:
        """Answer."""
        try:
            status, content_type, body = self.server.answer(self.path, self.headers.get("Accept", ""))
        except Exception as error:
            status, content_type, body = HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, f"{log_failure(error)}\n".encode()
        self._reply(status, content_type, body, {})

    do_HEAD = do_GET  # noqa: N815

    def _reply(self, status: HTTPStatus, content_type: str, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": content_type, "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """What it is, but not of which version."""
        return "nerserver"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep no access log."""


class _Limited:
    """A file that ends after MAX_REQUEST_BYTES."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._left = MAX_REQUEST_BYTES
        self.close = file.close

    def readline(self, size: int) -> bytes:
        """The next line, or what is left of it."""
        line = self._file.readline(min(size, self._left))
        self._left -= len(line)
        return line
