"""Where the microseconds of one streamed sentence go: medians over sentences, one at a time.

The times in the server are those that its answers tell. An echo over gRPC has as many messages and no work between
them. The parts of the tagger and of protobuf are timed in this process; what is left over is the server's own Python:
tasks, checks, the batcher, and objects from messages and back.
"""

import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from math import nan

from rich.table import Table
from tests.bench.load import Sentence
from tests.bench.roads import Prepared

from ner.v1 import tagger_pb2 as pb
from nermodel.native import NativeTagger
from nermodel.tagger import Tagger

NAMES = {
    "grpc": "gRPC on both ends and the loopback, with no work between (the echo)",
    "protobuf": "protobuf: reading the request, writing and reading the response",
    "queue": "queue",
    "ids": "ids: the words' slots in the table",
    "network": "network",
    "decode": "decode: Viterbi and entities",
    "answer": "the answer as objects, and ctypes",
    "engine_rest": "the engine in the server beyond that: colder caches, the event loop's other work",
    "rest": "the rest: tasks, checks, batcher, objects from messages and back",
    "total": "one sentence over a stream, there and back",
}


def parts_us(
    tagger: Tagger, requests: Sequence[Prepared], timings: Sequence[pb.Timing], echo_us: float, total_us: float
) -> dict[str, float]:
    """The parts of `total_us`, by the keys of NAMES; without the tagger's own parts where it is not the native one."""
    found = {"grpc": echo_us, "protobuf": _protobuf_us(requests)}
    found["queue"] = statistics.median(timing.queue_us for timing in timings)
    if isinstance(tagger, NativeTagger):
        found |= _tagger_us(tagger, [request[0] for request in requests])
    inside = sum(found.get(name, 0) for name in ("ids", "network", "decode", "answer"))
    found["engine_rest"] = statistics.median(timing.compute_us for timing in timings) - inside
    found["rest"] = total_us - sum(found.values())
    return found | {"total": total_us}


def drawn(parts: dict[str, float]) -> Table:
    """A row each."""
    table = Table(title="One sentence over a stream: where its microseconds go", title_justify="left")
    table.add_column("part")
    table.add_column("us", justify="right")
    table.add_column("share", justify="right")
    for name, text in NAMES.items():
        if name in parts:
            table.add_row(text, f"{parts[name]:,.0f}", f"{100 * parts[name] / parts['total']:.0f} %")
    return table


def _tagger_us(tagger: NativeTagger, sentences: Sequence[Sentence]) -> dict[str, float]:
    """The kernel is called in the steps that long sentences take, since one call does all for a short one."""
    times: dict[str, list[float]] = {name: [] for name in ("tag", "ids", "emit", "decode")}
    for words in sentences:
        lengths, asks = array("i", [len(words)]), array("f", [nan])
        addresses = [each.buffer_info()[0] for each in (lengths, asks)]
        times["tag"].append(_timed_us(tagger.tag, [words], [None]))
        times["ids"].append(_timed_us(tagger._types.slots, list(words)))
        times["emit"].append(_timed_us(tagger._emit, [words], lengths))
        times["decode"].append(_timed_us(tagger._library.kernel_decode, tagger._kernel, 1, *addresses))
    medians = {name: statistics.median(values) for name, values in times.items()}
    network = medians["emit"] - medians["ids"]
    return {
        "ids": medians["ids"],
        "network": network,
        "decode": medians["decode"],
        "answer": medians["tag"] - medians["ids"] - network - medians["decode"],
    }


def _protobuf_us(requests: Sequence[Prepared]) -> float:
    times = []
    for request in requests:
        response = pb.TagResponse(id="1", model_version="en/000001", timing=pb.Timing(queue_us=9, compute_us=99))
        response.outcomes.add().tagged.entities.add(start=1, end=2, label="PER")
        data = response.SerializeToString()
        read = _timed_us(pb.TagRequest.FromString, request.message) + _timed_us(pb.TagResponse.FromString, data)
        times.append(read + _timed_us(response.SerializeToString))
    return statistics.median(times)


def _timed_us(work: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    work(*arguments)
    return 1e6 * (time.perf_counter() - began)
