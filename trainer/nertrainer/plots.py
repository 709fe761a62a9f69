"""Plots as inline SVG that takes its colours and font from the page around it."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nertrainer.evaluation import Scores
from nertrainer.measures import Calibration, Confusion

# Colours that stand for what the page's style sheet calls them.
_INK, _MUTED, _ACCENT, _WRONG = "#010101", "#020202", "#030303", "#040404"
_MEANINGS = {_INK: "currentColor", _MUTED: "var(--muted)", _ACCENT: "var(--accent)", _WRONG: "var(--wrong)"}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nerstream",
    "font.size": 10,
    "text.parse_math": False,
}


@mpl.rc_context(_SETTINGS)
def reliability_plot(calibration: Calibration, name: str) -> str:
    """Accuracy over confidence by bin, and how many entities each bin has."""
    figure = Figure(figsize=(4.6, 4.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [(each.confidence, each.accuracy) for each in calibration.bins if each.count]
    upper.plot([0, 1], [0, 1], color=_MUTED, linestyle="--", linewidth=1)
    upper.plot(*zip(*filled, strict=True) if filled else ((), ()), color=_ACCENT, marker="o", markersize=5)
    upper.set(xlim=(0, 1), ylim=(-0.03, 1.04), ylabel="accuracy")
    middles = [(each.low + each.high) / 2 for each in calibration.bins]
    lower.bar(middles, [each.count for each in calibration.bins], width=0.09, color=_ACCENT)
    lower.set(xlabel="score", ylabel="entities")
    return _svg(figure, (upper, lower), name)


@mpl.rc_context(_SETTINGS)
def f1_plot(groups: Mapping[str, Scores], axis: str, name: str) -> str:
    """F1 of each group, with its count of gold entities below."""
    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    axes = figure.subplots()
    places = range(len(groups))
    axes.bar(places, [100 * scores.f1 for scores in groups.values()], width=0.62, color=_ACCENT)
    for place, scores in zip(places, groups.values(), strict=True):
        if scores.support:
            axes.annotate(f"{100 * scores.f1:.1f}", (place, 100 * scores.f1 + 2), ha="center", color=_INK)
        count = f"n = {scores.support:,}"
        axes.annotate(count, (place, 0), (0, -28), textcoords="offset points", ha="center", color=_MUTED)
    axes.set(ylim=(0, 112), ylabel="F1, %")
    axes.set_xlabel(axis, labelpad=20)
    axes.set_xticks(places, list(groups))
    axes.set_yticks(range(0, 101, 20))
    return _svg(figure, (axes,), name)


@mpl.rc_context(_SETTINGS)
def confusion_plot(confusion: Confusion, name: str) -> str:
    """What the gold entities of each type (rows) were predicted as (columns), shaded by their share of the type."""
    labels = list(confusion.same_boundaries)
    rows = [
        [*confusion.same_boundaries[label].values(), confusion.gold_other_boundaries[label], confusion.missed[label]]
        for label in labels
    ]
    rows += [[*confusion.predicted_other_boundaries.values()], [*confusion.spurious.values()]]
    predicted = [sum(row[column] for row in rows) for column in range(len(labels))]
    cell = max(0.7, 0.09 * max(map(len, labels), default=0))  # inches
    figure = Figure(figsize=(0.84 + cell * (len(rows) + 1), 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for down, counts in enumerate(rows):
        for across, count in enumerate(counts):
            share = count / max(1, sum(counts) if down < len(labels) else predicted[across])
            colour = _ACCENT if down == across < len(labels) else _WRONG
            corner = (across - 0.48, down - 0.46)
            axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor=colour, alpha=0.04 + 0.52 * share**0.5))
            axes.annotate(f"{count:,}", (across, down), ha="center", va="center", color=_INK if count else _MUTED)
    axes.set(xlim=(-0.5, len(rows) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel="predicted", ylabel="gold")
    axes.set_xticks(range(len(rows)), [*labels, "boundaries", "missed"])
    axes.set_yticks(range(len(rows)), [*labels, "boundaries", "spurious"])
    axes.xaxis.set_label_position("top")
    axes.tick_params(top=False, labeltop=True, bottom=False, labelbottom=False)
    return _svg(figure, (axes,), name, grid=False)


def _svg(figure: Figure, all_axes: Sequence[Axes], name: str, grid: bool = True) -> str:
    """The figure as an <svg> element that scales and links to nothing; its ids begin with `name`."""
    for axes in all_axes:
        axes.patch.set_visible(False)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelcolor=_INK)
        axes.xaxis.label.set_color(_MUTED)
        axes.yaxis.label.set_color(_MUTED)
        if grid:
            axes.grid(visible=True, axis="y", color=_MUTED, alpha=0.25, linewidth=0.8)
    figure.patch.set_visible(False)
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's font may lack a label's letters; the reader's font draws them
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    width = 72 * figure.get_figwidth()  # points; letters of 10 points shrink to 8.5 pixels at least
    head = rf'<svg viewBox="\1" role="img" style="min-width: {0.85 * width:.0f}px; max-width: {1.5 * width:.0f}px">'
    svg = re.sub(r'.*?<svg [^>]*viewBox="([^"]*)"[^>]*>', head, svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>|(?<=px; )font-family: [^;\"]*;?|(?<=<g) id=\"[^\"]*\"|(?<=>)\s+(?=<)", "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    for colour, meaning in _MEANINGS.items():
        svg = svg.replace(colour, meaning)
    return svg.strip()
