"""A phantom cohort as a picture, read back from its files: a row a case, slices feet to head, every other outlined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from imaging.atomic import replacing
from imaging.cohort import Case
from imaging.volume import reorient

COLUMNS, MOST = 8, 12
"""Slices of a case, and cases of a cohort, that one sheet shows."""
ABDOMEN_HU = (-160.0, 240.0)


def write_sheet(path: Path, cases: Sequence[Case], *, title: str) -> None:
    """Write a PNG of the first cases; InputError when it cannot be written."""
    shown = cases[:MOST]
    figure = Figure(figsize=(1.9 * COLUMNS, 1.9 * len(shown) + 0.4), facecolor="black")
    FigureCanvasAgg(figure)
    grid = {"left": 0.002, "right": 0.998, "bottom": 0.002, "top": 1 - 0.4 / figure.get_figheight()}
    axes = figure.subplots(len(shown), COLUMNS, squeeze=False, gridspec_kw={**grid, "wspace": 0.02, "hspace": 0.02})
    for row, case in zip(axes, shown, strict=True):
        image, mask = reorient(case.read_image()), case.read_mask()
        outline = reorient(mask).array if mask is not None else np.zeros(image.array.shape)
        window = ABDOMEN_HU if case.modality == "CT" else np.percentile(image.array, (0.5, 99.5))
        for column, k in enumerate(np.linspace(0, len(image.array) - 1, COLUMNS + 2).astype(int)[1:-1]):
            axis = row[column]
            axis.imshow(image.array[k], cmap="gray", vmin=window[0], vmax=window[1], interpolation="bilinear")
            if column % 2 and outline[k].any():
                axis.contour(outline[k], levels=[0.5], colors="#e69f00", linewidths=0.8)
            axis.set_axis_off()
    figure.text(0.5, 1 - 0.2 / figure.get_figheight(), title, color="white", fontsize=10, ha="center", va="center")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
