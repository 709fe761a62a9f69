"""Traces, read by a collector that speaks OTLP over HTTP."""

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ner.v1 import tagger_pb2 as pb
from nerserver import tracing
from nerserver.errors import StartError
from nerserver.server import Server
from nerserver.settings import Settings

REQUEST = pb.TagRequest(id="my-id", inputs=[pb.Input(text="Ada met Acme."), pb.Input(text="Babbage met Ada.")])
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    """Takes spans."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def collecting() -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a collector, and what was sent to it."""
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        server.bodies = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", server.bodies  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def spans(bodies: list[bytes]) -> list[Any]:
    """All spans that were sent."""
    return [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


async def test_spans(serve: Any) -> None:
    """A call is a span within the caller's, each request one within it with its numbers, and no text or id is told."""
    with collecting() as (url, bodies):
        async with serve(traces=url) as running:
            await running.stub.Tag(REQUEST, metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")])
            stream = running.stub.StreamTag(metadata=[("traceparent", "nonsense")])
            for _ in range(2):
                await stream.write(REQUEST)
                await stream.read()
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            with pytest.raises(grpc.aio.AioRpcError):
                await running.stub.Tag(pb.TagRequest(model="other"))
            await running.stub.GetModel(pb.GetModelRequest())
        found = spans(bodies)
    calls = {span.span_id: span for span in found if span.name != "request"}
    requests = [span for span in found if span.name == "request"]
    assert sorted((span.name, attributes(span)["rpc.grpc.status_code"]) for span in calls.values()) == [
        ("ner.v1.Tagger/GetModel", 0),
        ("ner.v1.Tagger/StreamTag", 0),
        ("ner.v1.Tagger/Tag", 0),
        ("ner.v1.Tagger/Tag", grpc.StatusCode.INVALID_ARGUMENT.value[0]),
    ]
    assert [span.parent_span_id.hex() for span in calls.values() if span.trace_id.hex() == TRACE] == [PARENT]
    assert sorted(calls[span.parent_span_id].name for span in requests) == [
        "ner.v1.Tagger/StreamTag",
        "ner.v1.Tagger/StreamTag",
        "ner.v1.Tagger/Tag",
    ]
    for span in requests:
        numbers = attributes(span)
        assert numbers["ner.sentences"] == 2
        assert numbers["ner.compute_us"] > 0
        assert span.start_time_unix_nano < span.end_time_unix_nano
    assert b"nerserver" in bodies[0]
    for secret in (b"Ada", b"Acme", b"my-id"):
        assert secret not in b"".join(bodies)


async def test_away_collector(serve: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that is away costs one warning, and does not keep the server from answering or from stopping."""
    monkeypatch.setattr(tracing, "EXPORT_S", 0.1)
    monkeypatch.setattr(tracing, "FLUSH_S", 1.0)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with collecting() as (url, _):
        pass
    async with serve(traces=url) as running:
        for _ in range(3):
            await running.stub.Tag(REQUEST)
            await asyncio.sleep(0.1)
    assert sum("traces are lost" in record.message for record in caplog.records) == 1


async def test_hanging_collector(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that takes a connection and never answers does not keep the server from stopping."""
    monkeypatch.setattr(tracing, "EXPORT_S", 20.0)
    monkeypatch.setattr(tracing, "FLUSH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hung:
        async with asyncio.timeout(10), serve(traces=f"http://127.0.0.1:{hung.getsockname()[1]}/v1/traces") as running:
            reply = await running.stub.Tag(REQUEST)
        assert len(reply.outcomes) == len(REQUEST.inputs)
        connection, _ = await asyncio.to_thread(hung.accept)
        connection.close()


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "http://", "ftp://host/x"])
async def test_bad_url(folder: Path, url: str) -> None:
    """What is no URL to send traces to is refused with an example of one."""
    with pytest.raises(StartError, match="expected a URL such as http://127"):
        Server(Settings(model=folder, address="127.0.0.1:0", device="cpu", traces=url))


async def test_without_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its packages, tracing says what to install."""
    monkeypatch.delitem(sys.modules, "nerserver.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(StartError, match=r"pip install 'nerstream\[traces\]'"):
        Server(Settings(model=folder, address="127.0.0.1:0", device="cpu", traces="http://127.0.0.1:1"))
