"""A run at one look: training loss and dev F1 over its epochs."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_GREY = "#666666"


@mpl.rc_context({"text.parse_math": False})
def curve(metrics: Sequence[Mapping[str, Any]], best: int) -> bytes:
    """A PNG of `drawn`."""
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font may lack letters of a file's name
        FigureCanvasAgg(figure := drawn(metrics, best))
        figure.savefig(png, format="png")
    return png.getvalue()


def drawn(metrics: Sequence[Mapping[str, Any]], best: int) -> Figure:
    """The lines of metrics.jsonl: above dev F1 of each file and their mean, the best epoch marked; below the loss."""
    epochs = [line["epoch"] for line in metrics]
    figure = Figure(figsize=(8, 5.5), layout="constrained", dpi=120)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    mark = "o" if len(epochs) < 40 else ""
    names = metrics[0]["dev_f1_each"]
    for name in names:
        f1 = [100 * line["dev_f1_each"][name] for line in metrics]
        upper.plot(epochs, f1, marker=mark, markersize=3, linewidth=1.2, label=name)
    mean = [100 * line["dev_f1"] for line in metrics]
    if len(names) > 1:
        upper.plot(epochs, mean, color="black", marker=mark, markersize=3, linewidth=2, label="mean")
    lower.plot(epochs, [line["loss"] for line in metrics], color=_GREY, marker=mark, markersize=3)
    for axes in (upper, lower):
        axes.axvline(best, color=_GREY, linestyle=":", linewidth=1)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    height = mean[epochs.index(best)]
    upper.plot([best], [height], marker="*", markersize=13, color="black", linestyle="", zorder=3)
    upper.set_title(f"best: {height:.2f} at epoch {best}", loc="left", fontsize=11)
    upper.set_ylabel("dev F1, %")
    lower.set_ylabel("training loss")
    lower.set_xlabel("epoch")
    lower.set_ylim(bottom=0)
    lower.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(loc="outside right upper", frameon=False)
    return figure
