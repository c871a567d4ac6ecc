"""Panels: how the figures are drawn. Shares are given as 0 to 1 and drawn in percent."""

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STYLES = ("-", "--", ":")
"""Of lines: ten colours each."""
Series = Mapping[float, Sequence[float]]
"""The values of the seeds at each place on the x axis."""
FLOOR = 1e-8
"""Nats: a divergence of float32 probabilities below it is rounding, and stands there in the picture."""
LOOKS: tuple[dict[str, Any], ...] = (
    {"label": "poisoned", "color": "tab:red", "alpha": 0.5, "histtype": "stepfilled"},
    {"label": "clean", "color": "tab:blue", "alpha": 0.4, "histtype": "stepfilled"},
    {"label": "clean, target class", "color": "black", "histtype": "step"},
)


def histograms(panels: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Any:
    """One panel per title: divergences in nats of poisoned samples, of clean ones, and of those of the target class."""
    logs = [[np.log10(np.maximum(part, FLOOR)) for part in parts] for _, parts in panels]
    every = np.concatenate([part for parts in logs for part in parts])
    bins = np.linspace(every.min(), max(every.max(), every.min() + 1), 61)
    x = f"log10 of the divergence in nats (at {math.log10(FLOOR):g}: or less)"
    picture, axes = _panels([title for title, _ in panels], x, "% of the samples of its kind")
    for axis, parts in zip(axes, logs, strict=True):
        for part, look in zip(parts, LOOKS, strict=True):
            axis.hist(part, bins, weights=np.full(len(part), 100 / max(1, len(part))), **look)
    return _with_legend(picture, axes)


def lines(panels: Sequence[tuple[str, Mapping[str, Series]]], x: str, y: Sequence[str], log: bool = False) -> Any:
    """One panel per title: the mean over the seeds of each series as a line, their range as a band. `y` is one label for all
    panels, or one for each; places stand as far apart as they are large, or with `log` as their logarithms are."""
    picture, axes = _panels([title for title, _ in panels], x, *y)
    for axis, (_, series) in zip(axes, panels, strict=True):
        for at, (label, points) in enumerate(series.items()):
            places = [place for place in sorted(points) if points[place]]
            mean, least, most = ([100 * end(points[place]) for place in places] for end in (statistics.fmean, min, max))
            (line,) = axis.plot(places, mean, f"o{STYLES[at // 10]}", ms=3, lw=1.2, label=label)
            axis.fill_between(places, least, most, color=line.get_color(), alpha=0.15, lw=0)
        axis.set_ylim(-3, 103)
        if log:
            axis.set_xscale("log")
        every = sorted({place for points in series.values() for place in points})
        shown = every[:: math.ceil(len(every) / 8)]
        axis.set_xticks(shown, [f"{place:g}" for place in shown])
        axis.minorticks_off()
    return _with_legend(picture, axes)


def _panels(titles: Sequence[str], x: str, *y: str) -> tuple[Any, list[Any]]:
    """A matplotlib figure with a panel a title, four a line."""
    from matplotlib.figure import Figure  # not pyplot: it would ask for a screen and keep every figure

    columns = min(len(titles), 4)
    rows = math.ceil(len(titles) / columns)
    picture = Figure(figsize=(3.2 * columns + 1.8, 2.9 * rows), layout="constrained")
    axes = list(picture.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    for at, title in enumerate(titles):
        axes[at].set_title("\n".join(textwrap.fill(part, 44) for part in title.split("\n")), fontsize=9)
        axes[at].set_xlabel(x, fontsize=8)
        axes[at].set_ylabel(y[at % len(y)], fontsize=8)
        axes[at].grid(alpha=0.25)
        axes[at].tick_params(labelsize=7)
    return picture, axes[: len(titles)]


def _with_legend(picture: Any, axes: list[Any]) -> Any:
    """One legend for all panels, outside them, where it hides nothing."""
    picture.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return picture
