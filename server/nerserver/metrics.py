"""What a server process counts, for Prometheus."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from nerserver.errors import RequestError

SECONDS = tuple(15e-6 * 2**power for power in range(20))  # to 8 s
SENTENCES = tuple(2**power for power in range(12))
LAG_EVERY_S = 0.25


class Metrics:
    """Counters, histograms and gauges in a registry of their own; all but reading it is for the event loop's thread.

    Requests are those of Tag and StreamTag, each TagRequest of a stream for itself; `outcome` is ok, refused (`reason`
    is its error's name, see errors.py), failed (a bug of ours) or cancelled.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered.", "method", "outcome", "reason")
        self._bad_inputs = self._counter("bad_inputs", "Inputs with an error of their own.", "outcome")
        self._sentences = self._counter("sentences", "Sentences tagged.")
        self._tokens = self._counter("tokens", "Tokens tagged.")
        self._padded = self._counter("padded_tokens", "The same if each batch were padded to its longest sentence.")
        self._batch = self._histogram("batch_sentences", "Sentences of a batch.", SENTENCES)
        self._compute = self._histogram("compute_seconds", "Time of a batch in the engine.", SECONDS)
        self._queue = self._histogram("queue_seconds", "Longest wait of a request's sentences for the engine.", SECONDS)
        self._reply = self._histogram("reply_seconds", "From a request's arrival to its answer.", SECONDS)
        self._lag = self._histogram("event_loop_lag_seconds", "How late the event loop is.", SECONDS)
        self._reloads = self._counter("reloads", "Checkpoints, by what they came to.", "result")
        self._turned_away = self._counter("turned_away", "Calls that did not get in.", "reason")
        self._model = Gauge("nerserver_model", "1 for the version that serves.", ["version"], registry=self.registry)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(f"nerserver_{name}", help_text, registry=self.registry).set_function(value)

    @contextmanager
    def request(self, method: str) -> Iterator[None]:
        """Count a request by what the block comes to, and time it if it is answered."""
        began = perf_counter()
        try:
            yield
        except RequestError as refusal:
            self.refused(method, refusal)
            raise
        except asyncio.CancelledError:
            self.cancelled(method, 1)
            raise
        except Exception:
            self.failed(method)
            raise
        self.answered(method, began)

    def answered(self, method: str, began: float) -> None:
        """Count a request that was answered, and time it since `began`, by the performance counter."""
        self._requests.labels(method, "ok", "").inc()
        self._reply.observe(perf_counter() - began)

    def refused(self, method: str, refusal: RequestError) -> None:
        """Count a request that was refused as a whole."""
        self._requests.labels(method, "refused", type(refusal).__name__.removesuffix("Error")).inc()

    def cancelled(self, method: str, count: int) -> None:
        """Count requests whose caller left, or whose stream ended, before they were answered."""
        self._requests.labels(method, "cancelled", "").inc(count)

    def failed(self, method: str) -> None:
        """Count a request that a bug of ours kept from being answered."""
        self._requests.labels(method, "failed", "").inc()

    def bad_input(self, outcome: str) -> None:
        """Count an input of an answered request that was refused or failed by itself."""
        self._bad_inputs.labels(outcome).inc()

    def queued(self, seconds: float) -> None:
        """Take note of how long a request waited."""
        self._queue.observe(seconds)

    def batch(self, lengths: list[int], seconds: float) -> None:
        """Take note of a batch that was answered, by the tokens of its sentences."""
        self._batch.observe(len(lengths))
        self._sentences.inc(len(lengths))
        self._tokens.inc(sum(lengths))
        self._padded.inc(len(lengths) * max(lengths))
        self._compute.observe(seconds)

    def turned_away(self, reason: str) -> None:
        """Count a call that did not get in: denied (no good token), busy or oversize."""
        self._turned_away.labels(reason).inc()

    def reload(self, result: str) -> None:
        """Count a checkpoint: loaded, refused or rolled_back."""
        self._reloads.labels(result).inc()

    def serves(self, version: str) -> None:
        """Say which version serves now."""
        self._model.clear()
        self._model.labels(version).set(1)

    async def follow_lag(self) -> None:
        """Measure how late the event loop is, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag.observe(max(loop.time() - due, 0.0))

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"nerserver_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"nerserver_{name}", help_text, buckets=buckets, registry=self.registry)
