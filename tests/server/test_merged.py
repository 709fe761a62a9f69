"""The probes of several workers as one, over real sockets."""

import asyncio
import socket
from contextlib import ExitStack

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from nerserver.merged import MergedProbes
from nerserver.probes import Probes


def worker(stack: ExitStack, calls: int, reason: str | None) -> str:
    """The address of the probes of a worker that answered so many calls, and is not ready for this reason."""
    registry = CollectorRegistry()
    Counter("calls", "Calls.", ["method"], registry=registry).labels("Tag").inc(calls)
    Histogram("wait_seconds", "Waits.", buckets=(1, 2), registry=registry).observe(calls)
    loop = stack.enter_context(asyncio.Runner()).get_loop()
    probes = Probes("127.0.0.1:0", False, loop, lambda: reason, registry)
    stack.callback(probes.close)
    return probes.address


def test_metrics() -> None:
    """Each sample bears its worker's number, a family is told once, and a worker that does not answer is left out."""
    with ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as dead:
            gone = f"127.0.0.1:{dead.getsockname()[1]}"
        serving = {0: worker(stack, 1, None), 1: worker(stack, 2, None), 2: gone}
        registry = CollectorRegistry()
        registry.register(MergedProbes(lambda: serving, lambda: 7))
        text = generate_latest(registry).decode()
    assert 'calls_total{method="Tag",worker="0"} 1.0\n' in text
    assert 'calls_total{method="Tag",worker="1"} 2.0\n' in text
    assert 'wait_seconds_bucket{le="1.0",worker="1"} 0.0\n' in text
    assert text.count("# TYPE calls_total counter\n") == 1
    assert "nerserver_workers 3.0\n" in text
    assert "nerserver_workers_replaced_total 7.0\n" in text
    assert 'worker="2"' not in text


def test_readiness() -> None:
    """One worker that is ready is enough, and where none is, one's reason is told."""
    with ExitStack() as stack:
        waiting, ready = worker(stack, 0, "no model"), worker(stack, 0, None)
        serving = {0: waiting, 1: ready}
        merged = MergedProbes(lambda: serving, lambda: 0)
        assert merged.not_ready() is None
        del serving[1]
        assert merged.not_ready() == "no model"
        serving.clear()
        assert merged.not_ready() == "no worker serves yet"
