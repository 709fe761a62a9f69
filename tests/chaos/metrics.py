"""What a server tells of itself at /metrics."""

from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from tests.bench.servers import free_port


class Metrics:
    """The metrics of a server that is started with `options`."""

    def __init__(self) -> None:
        self._address = f"127.0.0.1:{free_port()}"
        self.options = ("--http-address", self._address)

    def read(self) -> dict[str, float]:
        """Every sample's sum over its labels, by name."""
        with urlopen(f"http://{self._address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found
