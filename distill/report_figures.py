"""The report's pictures as inline SVG and PNG, legible on light and dark paper alike."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK = "#010203"
"""Drawn in this colour, replaced by the page's own text colour in the SVG."""
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Paul Tol's bright scheme: told apart by colour-blind readers, and visible on both backgrounds."""
DASHES = ("-", "--", ":", "-.")
"""Where there are more lines than colours."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "preceptor",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Curve = tuple[str, Sequence[float], Sequence[float]]
"""Name, x values, y values."""


def curves(lines: Sequence[Curve], *, xlabel: str, ylabel: str, title: str) -> str:
    """Lines over a common axis, as SVG."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(5.2, 3.0)
        for place, ((name, x, y), colour) in enumerate(zip(lines, _cycle(len(lines)), strict=True)):
            dashes, marker = DASHES[place // len(COLOURS) % len(DASHES)], "." if len(x) < 30 else None
            axes.plot(x, y, label=name, color=colour, linewidth=1.6, linestyle=dashes, marker=marker)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        axes.grid(alpha=0.2)
        if len(lines) > len(COLOURS):
            figure.legend(fontsize=8, loc="outside right center")
        elif lines:
            axes.legend(fontsize=8)
        return _svg(figure)


def histogram(groups: dict[str, NDArray[np.float64]], *, xlabel: str, title: str) -> str:
    """How values in [0, 1] spread, one outlined histogram a group, as SVG."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(5.2, 3.0)
        for (name, values), colour in zip(groups.items(), _cycle(len(groups)), strict=True):
            axes.hist(
                values, bins=np.linspace(0, 1, 41).tolist(), histtype="step", label=name, color=colour, linewidth=1.6
            )
        axes.set(xlabel=xlabel, ylabel="slices", title=title)
        if groups:
            axes.legend(fontsize=8)
        return _svg(figure)


def dots(groups: Mapping[str, Mapping[str, Sequence[float]]], *, xlabel: str, title: str) -> str:
    """Every case as a dot: a field a site, a line a scheme, a bar at the mean. As SVG."""
    with mpl.rc_context(STYLE):
        sites = list(dict.fromkeys(site for by_site in groups.values() for site in by_site))
        columns = max(1, len(sites))
        figure = Figure(figsize=(max(5.2, 1.4 + 2.2 * columns), 1.1 + 0.28 * len(groups)), layout="constrained")
        fields = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
        for site, axes in zip(sites, fields, strict=True):
            for place, ((_, by_site), colour) in enumerate(zip(groups.items(), _cycle(len(groups)), strict=True)):
                values = np.asarray(by_site.get(site, ()), dtype=float)
                spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(len(values))
                axes.plot(values, place + spread, ".", color=colour, alpha=0.6)
                if len(values):
                    axes.vlines(values.mean(), place - 0.35, place + 0.35, color=colour, linewidth=2)
            axes.set(xlabel=xlabel, title=site)
            axes.grid(axis="x", alpha=0.2)
        fields[0].set_yticks(range(len(groups)), list(groups))
        fields[0].invert_yaxis()
        figure.suptitle(title)
        return _svg(figure)


def intervals(rows: Sequence[tuple[str, float, float, float]], *, xlabel: str, title: str) -> str:
    """Means with their intervals (name, mean, low, high), one above the other, beside a line at 0, as SVG."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(5.6, 0.9 + 0.32 * len(rows))
        for place, ((_, mean, low, high), colour) in enumerate(zip(rows, _cycle(len(rows)), strict=True)):
            axes.hlines(place, low, high, color=colour, linewidth=2)
            axes.plot(mean, place, "o", color=colour)
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
        axes.set(xlabel=xlabel, title=title)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.2)
        return _svg(figure)


def overlay(image: NDArray[np.float32], reference: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> str:
    """A slice (H, W) with both outlines: reference green, prediction red, their overlap filled yellow (AMTKD, Fig. 4).

    Returns a PNG as a data address. All foreground classes are outlined one by one.
    """
    figure = Figure(figsize=(2.4, 2.4 * image.shape[0] / image.shape[1]), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    low, high = np.percentile(image, (1, 99.5))
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="bilinear")
    both = ((reference == prediction) & (reference > 0)).astype(float)
    axes.imshow(np.ma.masked_equal(both, 0), cmap="autumn_r", alpha=0.28, vmin=0, vmax=2, interpolation="nearest")
    for mask, colour in ((reference, "#37d67a"), (prediction, "#ff5c5c")):
        for value in np.unique(mask[mask > 0]):
            axes.contour(mask == value, levels=[0.5], colors=[colour], linewidths=1.1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _cycle(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
