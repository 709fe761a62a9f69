"""What the probes of several workers come to as one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

PROBE_S = 1.0  # that a worker may take to answer
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class MergedProbes(Collector):
    """Asks every worker that serves; one that does not answer is left out.

    `serving` gives the address of the probes of each by its number, and `replaced` how many workers died.
    """

    def __init__(self, serving: Callable[[], Mapping[int, str]], replaced: Callable[[], int]) -> None:
        self._serving = serving
        self._replaced = replaced

    def not_ready(self) -> str | None:
        """None where a worker is ready, else the reason of one that is not."""
        reason = "no worker serves yet"
        for address in self._serving().values():
            with suppress(OSError, HTTPException):
                status, body = _get(address, "/readyz")
                if status == 200:
                    return None
                reason = body.strip()
        return reason

    def collect(self) -> Iterator[Metric]:
        """The metrics of all workers, each sample with its worker's number, and how many workers there are."""
        families: dict[str, Metric] = {}
        serving = self._serving()
        for number, address in serving.items():
            with suppress(OSError, HTTPException, ValueError):
                for family in _families(_get(address, "/metrics")[1]):
                    merged = families.setdefault(
                        family.name, Metric(family.name, family.documentation, family.type, family.unit)
                    )
                    merged.samples += [
                        sample._replace(labels={"worker": str(number), **sample.labels}) for sample in family.samples
                    ]
        yield GaugeMetricFamily("nerserver_workers", "Workers that serve.", value=len(serving))
        yield CounterMetricFamily("nerserver_workers_replaced", "Workers that died.", value=self._replaced())
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that no worker is asked when this is registered."""
        return iter(())


def _families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def _get(address: str, path: str) -> tuple[int, str]:
    """Status and body of a worker's probe."""
    connection = HTTPConnection(address, timeout=PROBE_S)
    try:
        connection.request("GET", path, headers={"Accept": OPENMETRICS})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
