"""Traces by OpenTelemetry, which the extra `traces` installs: a span for a call, and in it one for each request.

Spans hold numbers and codes, never a user's text nor a request's id.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ner.v1 import tagger_pb2 as pb
from nerserver.guard import arity

logger = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]
OURS = "ner.v1."
EXPORT_S = 5.0  # that sending one batch of spans may take
FLUSH_S = 2.0  # that the last spans get when the server stops
FAULTS = {  # the codes that the semantic conventions call an error of a server
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}


class Tracing(grpc.aio.ServerInterceptor):
    """Traces each call of ours that gets in, as a child of the caller's span where metadata names one.

    The innermost layer. Spans go to a URL by OTLP over HTTP, in a thread of their own, and while nobody takes them
    they are dropped. ValueError where the URL is none.
    """

    def __init__(self, url: str) -> None:
        if not _is_url(url):
            raise ValueError(f"traces is {url!r}, expected a URL such as http://127.0.0.1:4318/v1/traces")
        resource = Resource({"service.name": "nerserver", "process.pid": os.getpid()})
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before.
        resource = resource.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(url)))
        self._tracer = self._provider.get_tracer("nerserver")
        self._propagator = TraceContextTextMapPropagator()

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The traced handler of a method of ours, which must be a coroutine; others are left as they are."""
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or not service.startswith(OURS):
            return handler
        behaviour, make = arity(handler)
        carrier = {
            key: value
            for key, value in handler_call_details.invocation_metadata or ()
            if key in self._propagator.fields and isinstance(value, str)
        }

        async def traced(data: Any, context: Context) -> Any:
            with self._tracer.start_as_current_span(
                f"{service}/{method}",
                self._propagator.extract(carrier),
                SpanKind.SERVER,
                {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
                record_exception=False,  # its message may hold a user's text
                set_status_on_exception=False,
            ) as span:
                code = grpc.StatusCode.INTERNAL
                try:
                    answer = await behaviour(data, context)
                    code = grpc.StatusCode.OK
                except grpc.aio.AbortError:
                    code = context.code()
                    raise
                except asyncio.CancelledError:
                    code = grpc.StatusCode.CANCELLED
                    raise
                finally:
                    span.set_attribute("rpc.grpc.status_code", code.value[0])
                    if code in FAULTS:
                        span.set_status(Status(StatusCode.ERROR))
            return answer

        parse, serialize = handler.request_deserializer, handler.response_serializer
        made: grpc.RpcMethodHandler[Any, Any] = make(traced, parse, serialize)
        return made

    def request(self, began_ns: int, sentences: int, timing: pb.Timing) -> None:
        """Note a request that is answered now, within the call that runs; it began at a Unix time in nanoseconds."""
        span = self._tracer.start_span("request", start_time=began_ns)
        span.set_attributes(
            {
                "ner.sentences": sentences,
                "ner.tokenize_us": timing.tokenize_us,
                "ner.queue_us": timing.queue_us,
                "ner.compute_us": timing.compute_us,
                "ner.batch_size": timing.batch_size,
            }
        )
        span.end()

    def close(self) -> None:
        """Send the spans that are left, for FLUSH_S at most."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(FLUSH_S)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port or an address that cannot be
        return False


class _Exporter(SpanExporter):
    """Sends spans to a URL, and tells once when they begin to be lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._sender = OTLPSpanExporter(url, timeout=EXPORT_S)
        self._losing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them, or drop them."""
        result = self._sender.export(spans)
        losing = result is not SpanExportResult.SUCCESS
        if losing and not self._losing:
            logger.warning("traces are lost: %s does not take them", self._url)
        elif self._losing and not losing:
            logger.info("traces are no more lost")
        self._losing = losing
        return result

    def shutdown(self) -> None:
        """Send no more."""
        self._sender.shutdown()  # type: ignore[no-untyped-call]
