"""What `make bench` says of the service: tables, ratios with their targets, and the picture of latency by load."""

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from tests.bench import engine
from tests.bench.load import Load

ALONE_CALL, ALONE, ECHO = "one caller, a call each", "one caller, a stream", "one caller, a stream, echo"
CALLS = "32 callers, a call each"
ONE_BY_1, ONE_BY_32 = "one stream, 1 a message", "one stream, 32 a message"
EIGHT_BY_1, EIGHT_BY_32 = "eight streams, 1 a message", "eight streams, 32 a message"
TARGETS = {  # by the name of the ratio; True: at least
    **{f"engine_over_torch_b{size}": (target, True) for size, target in engine.TARGETS.items()},
    "engine_alone_p50_us": (90, False),
    **{f"threads2_over_1_b{size}": (1.8, True) for size in engine.TARGETS if size > 1},
    **{f"scores_over_tags_b{size}": (1.3, False) for size in (1, 32)},
    "stream_over_engine_32": (0.95, True),
    "stream_over_engine_1": (0.65, True),
    "alone_p50_us": (500, False),
    "half_load_p99_over_alone_p99": (3, False),
    "start_s": (3, False),
}
Loads: TypeAlias = Mapping[str, Sequence[Load]]  # by road, one a round


def percentile_ms(loads: Sequence[Load], percent: int) -> float:
    """The median over the rounds."""
    return statistics.median(load.percentile_ms(percent) for load in loads)


def rate(loads: Sequence[Load]) -> float:
    """Sentences a second, the median over the rounds."""
    return statistics.median(load.sentences / load.took_s for load in loads)


def over_engine(loads: Sequence[Load], engine_rates: Mapping[int, Sequence[float]]) -> float:
    """Tokens a second over the wire by those in process, at the better size of batch: the median over the rounds."""
    best = max(engine_rates.values(), key=statistics.median)
    return statistics.median(load.tokens / load.took_s / own for load, own in zip(loads, best, strict=True))


def ratios(
    loads: Loads, open_loads: Mapping[int, Sequence[Load]], engine_rates: Mapping[int, Sequence[float]]
) -> dict[str, float]:
    """Those of the service."""
    p99 = zip(open_loads[50], loads[ALONE], strict=True)
    return {
        "stream_over_engine_32": over_engine(loads[ONE_BY_32], engine_rates),
        "stream_over_engine_1": over_engine(loads[ONE_BY_1], engine_rates),
        "alone_p50_us": 1000 * percentile_ms(loads[ALONE], 50),
        "half_load_p99_over_alone_p99": statistics.median(
            half.percentile_ms(99) / alone.percentile_ms(99) for half, alone in p99
        ),
    }


def told(load: Load) -> dict[str, Any]:
    """For JSON."""
    found: dict[str, Any] = {name: getattr(load, name) / load.took_s for name in ("sentences", "tokens")}
    result = {f"{name}_per_s": value for name, value in found.items()}
    if load.times_ms:
        result |= {f"p{percent}_ms": load.percentile_ms(percent) for percent in (50, 99)}
    return result


def services(loads: Loads, engine_rates: Mapping[int, Sequence[float]]) -> Table:
    """All roads, and the engine in process in the same rounds."""
    table = _table(
        "The service over the loopback", "road", "sentences/s", "tokens/s", "over engine", "p50 ms", "p99 ms"
    )
    for size, rates in engine_rates.items():
        table.add_row(f"engine in process, {size} a batch", "", f"{statistics.median(rates):,.0f}", "", "", "")
    for name, rounds in loads.items():
        tokens = statistics.median(load.tokens / load.took_s for load in rounds)
        cells = [f"{rate(rounds):,.0f}", f"{tokens:,.0f}", f"{over_engine(rounds, engine_rates):.2f}"]
        timed = bool(rounds[0].times_ms)
        table.add_row(name, *cells, *(f"{percentile_ms(rounds, p):.3f}" if timed else "" for p in (50, 99)))
    return table


def open_loads(loads: Mapping[int, Sequence[Load]]) -> Table:
    """Latency by load."""
    table = _table("At random moments, eight streams", "of their peak", "sentences/s", "p50 ms", "p99 ms")
    for share, rounds in loads.items():
        times = (f"{percentile_ms(rounds, percent):.3f}" for percent in (50, 99))
        table.add_row(f"{share} %", f"{rate(rounds):,.0f}", *times)
    return table


def facts(values: Mapping[str, float | None]) -> Table:
    """What the server needs, and how busy others kept the machine meanwhile."""
    table = _table(
        "The server", "seconds to ready", "MB at rest", "MB at peak", "model threads", "% of cores to others"
    )
    table.add_row(*("-" if value is None else f"{value:.2f}".removesuffix(".00") for value in values.values()))
    return table


def verdicts(found: Mapping[str, float]) -> Table:
    """Ratios beside their targets."""
    table = _table("Targets", "ratio", "value", "target", "")
    for name, value in found.items():
        target, least = TARGETS[name]
        met = value >= target if least else value <= target
        table.add_row(name, f"{value:,.2f}", f"{'>=' if least else '<='} {target}", "met" if met else "missed")
    return table


def picture(open_loads: Mapping[int, Sequence[Load]], loads: Loads) -> bytes:
    """A PNG of latency by load."""
    figure = Figure(figsize=(9, 4.5), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rates = [rate(rounds) for rounds in open_loads.values()]
    for percent, color in ((99, "#d1495b"), (50, "#00798c")):
        times = [percentile_ms(rounds, percent) for rounds in open_loads.values()]
        axes.plot(rates, times, color=color, marker="o", markersize=4, label=f"p{percent}")
        alone = percentile_ms(loads[ALONE], percent)
        axes.axhline(alone, color=color, linestyle=":", linewidth=1, label=f"p{percent}, one caller alone")
    axes.axvline(rate(loads[EIGHT_BY_1]), color="#666666", linestyle="--", linewidth=1, label="peak")
    axes.set_title("Single sentences at random moments, eight streams", loc="left", fontsize=11)
    axes.set_xlabel("sentences a second")
    axes.set_ylabel("ms from the request to its answer")
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for head in others:
        table.add_column(head, justify="right")
    return table
