"""The probes over real sockets: what they tell, what they refuse, and an event loop that is blocked."""

import asyncio
import collections
import itertools
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from nerserver import probes
from nerserver.probes import Probes

SECRET = "Ada met Acme"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@contextmanager
def probing(reason: str | None = None) -> Iterator[Any]:
    """Probes of a loop that runs in a thread, which is not ready for this reason."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    registry = CollectorRegistry()
    Counter("calls", "Calls.", registry=registry).inc(3)
    probe = Probes("127.0.0.1:0", False, loop, lambda: reason, registry)
    try:
        yield SimpleNamespace(address=probe.address, loop=loop, registry=registry)
    finally:
        probe.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def get(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Status, type and body."""
    request = urllib.request.Request(f"http://{address}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers["Content-Type"], response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def exchange(address: str, data: bytes) -> bytes:
    """All that comes back for these bytes."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        return connection.makefile("rb").read()


def test_pages() -> None:
    """Alive and ready are 200, metrics come as text or as OpenMetrics, and HEAD is GET without a body."""
    with probing() as probe:
        assert get(probe.address, "/healthz")[::2] == get(probe.address, "/readyz?verbose")[::2] == (200, "ok\n")
        status, kind, body = get(probe.address, "/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert "calls_total 3.0\n" in body
        status, kind, body = get(probe.address, "/metrics", Accept=OPENMETRICS)
        assert (status, kind.partition(";")[0]) == (200, "application/openmetrics-text")
        [family] = text_string_to_metric_families(body)  # type: ignore[no-untyped-call]
        assert family.samples[0].value == 3
        assert get(probe.address, "/readyz", "HEAD") == (200, probes.TEXT, "")


def test_not_ready() -> None:
    """Not ready is 503 and the reason in one line, while the process is alive."""
    with probing("the server is draining") as probe:
        assert get(probe.address, "/readyz")[::2] == (503, "the server is draining\n")
        assert get(probe.address, "/healthz")[0] == 200


def test_blocked_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose event loop is blocked is not alive, until it goes on."""
    monkeypatch.setattr(probes, "ALIVE_S", 0.1)
    release = threading.Event()
    with probing() as probe:
        probe.loop.call_soon_threadsafe(release.wait)
        status, _, body = get(probe.address, "/healthz")
        release.set()
        assert (status, body) == (503, "the event loop did not answer within 0.1 s\n")
        monkeypatch.undo()
        assert get(probe.address, "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"BREW /metrics HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_refused(data: bytes, status: int) -> None:
    """What is no GET or HEAD of a page is refused with the code that says so, and nothing of Python's is told."""
    with probing() as probe:
        answer = exchange(probe.address, data)
    assert f" {status} ".encode() in answer.partition(b"\r\n")[0]
    assert b"Python" not in answer


def test_broken_metrics(caplog: pytest.LogCaptureFixture) -> None:
    """Metrics that cannot be read are 500 and an id in the log."""

    class Broken:
        def collect(self) -> Any:
            raise LookupError(SECRET)

    with probing() as probe:
        probe.registry._collector_to_names[Broken()] = []
        status, _, body = get(probe.address, "/metrics")
    assert status == 500
    assert body.split()[2].rstrip(";") in caplog.text
    assert SECRET not in body + caplog.text


def test_slow_and_many_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that send nothing, or a header for ever, are cut off and make room; beyond the bound none gets in."""
    monkeypatch.setattr(probes, "CONNECTION_S", 0.5)
    monkeypatch.setattr(probes, "MAX_CONNECTIONS", 4)
    with probing() as probe:
        host, _, port = probe.address.rpartition(":")
        slow = [socket.create_connection((host, int(port)), timeout=30) for _ in range(5)]
        for each in slow[:2]:
            each.sendall(b"GET /healthz HTTP/1.1\r\na: ")
        assert slow[4].recv(100) == b""
        assert [each.recv(1000) for each in slow[2:4]] == [b"", b""]
        for each in slow:
            each.close()
        assert get(probe.address, "/healthz")[0] == 200


def test_endless_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that does not end is read up to a bound."""
    monkeypatch.setattr(probes, "CONNECTION_S", 600)
    with probing() as probe:
        host, _, port = probe.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection, pytest.raises(ConnectionError):
            collections.deque(map(connection.sendall, itertools.repeat(b"a" * 1024)), 0)


def test_taken_address() -> None:
    """An address that another has is refused in one line."""
    with socket.create_server(("127.0.0.1", 0)) as other, asyncio.Runner() as runner:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            ValueError, match=rf"cannot listen on {address} \(Address already in use\); give another --http-address"
        ):
            Probes(address, False, runner.get_loop(), lambda: None, CollectorRegistry())
