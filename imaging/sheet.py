"""The preview sheet: one slice of every case with its mask's outline, so that a wrong pair shows at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from imaging.atomic import replacing
from imaging.volume import Volume, reorient

MOST = 200
"""Cases that one sheet shows; the first ones of a larger cohort."""
SIDE = 320
"""Pixels of a kept slice along its longer side at most, so that a sheet of many scans needs little memory."""
SOFT_TISSUE_HU = (-160.0, 240.0)
AIR_HU = -900
"""Only CT holds values so low."""
OUTLINES = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#ffffff")
"""Colours of classes 1, 2, …, told apart by the colour-blind too (Okabe and Ito 2008); then from the start again."""


@dataclass(frozen=True)
class Picture:
    """One axial slice of a case as radiologists read it: `image` (H, W) in 0 to 1, `mask` (H, W) or None."""

    name: str
    use: str
    image: NDArray[np.float32]
    mask: NDArray[np.uint8] | None
    aspect: float
    """Height of a pixel over its width."""


def picture_of(name: str, use: str, image: Volume, mask: Volume | None) -> Picture:
    """The slice with most classes and most of them, or the middle one; CT in its soft-tissue window."""
    scan = reorient(image)
    labels = reorient(mask).array if mask is not None else None
    index = len(scan.array) // 2 if labels is None else _fullest(labels)
    plane = scan.array[index] if image.channels == 1 else scan.array[index, :, :, 0]
    thin = max(1, math.ceil(max(plane.shape) / SIDE))
    ct = image.modality == "CT" or (not image.modality and scan.array.min() <= AIR_HU)
    low, high = SOFT_TISSUE_HU if ct else np.percentile(plane, (1, 99))
    grey = np.clip((plane[::thin, ::thin] - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    _, height, width = scan.spacing_mm
    outline = labels[index, ::thin, ::thin].copy() if labels is not None else None
    return Picture(name, use, grey, outline, height / width)


def _fullest(labels: NDArray[np.uint8]) -> int:
    return max(range(len(labels)), key=lambda k: (len(np.unique(labels[k])), np.count_nonzero(labels[k])))


def write_sheet(path: Path, shown: Sequence[Picture], *, title: str, cases: int) -> None:
    """All pictures, of so many `cases`, on one PNG; InputError when it cannot be written."""
    columns = max(3, min(12, math.ceil(math.sqrt(1.4 * len(shown)))))
    rows = max(1, math.ceil(len(shown) / columns))
    height = 2.2 * rows + 1.0  # inches: a cell is 1.9 × 2.2, title and legend half an inch each
    figure = Figure(figsize=(1.9 * columns, height), facecolor="black")
    FigureCanvasAgg(figure)
    edges = {"left": 0.01, "right": 0.99, "bottom": 0.5 / height, "top": 1 - 0.85 / height}
    axes = np.array(
        figure.subplots(rows, columns, squeeze=False, gridspec_kw={**edges, "wspace": 0.05, "hspace": 0.25})
    ).ravel()
    for axis, picture in zip(axes, shown, strict=False):
        _draw(axis, picture)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    more = f" (the first {MOST} of {cases} cases)" if cases > MOST else ""
    figure.text(0.5, 1 - 0.3 / height, f"{title}{more}", color="white", fontsize=10, ha="center")
    _legend(figure, shown)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _draw(axis: Axes, picture: Picture) -> None:
    axis.imshow(picture.image, cmap="gray", vmin=0, vmax=1, aspect=picture.aspect, interpolation="bilinear")
    for value in np.unique(picture.mask[picture.mask > 0]) if picture.mask is not None else ():
        axis.contour(picture.mask == value, levels=[0.5], colors=[_colour(int(value))], linewidths=0.9)
    name = picture.name if len(picture.name) <= 26 else f"{picture.name[:12]}…{picture.name[-13:]}"
    colour = "#7fd08f" if picture.mask is not None else "#f0c060"
    axis.set_title(f"{name}\n{picture.use}", color=colour, fontsize=6.5)
    axis.set_axis_off()


def _legend(figure: Figure, pictures: Sequence[Picture]) -> None:
    values = sorted({int(value) for one in pictures if one.mask is not None for value in np.unique(one.mask) if value})
    if values:
        lines = [Line2D([], [], color=_colour(value), label=f"class {value}") for value in values[: len(OUTLINES)]]
        figure.legend(
            handles=lines,
            loc="lower center",
            ncols=len(lines),
            fontsize=7,
            labelcolor="white",
            facecolor="black",
        )


def _colour(value: int) -> str:
    return OUTLINES[(value - 1) % len(OUTLINES)]
