"""How well a prediction agrees with a reference: Dice, IoU, VOE, HD95 and ASSD, a class or region and a case at a time.

Sites report these and nothing else of their patients; the report averages over cases what is defined.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_distance import compute_average_surface_distance
from numpy.typing import NDArray

Structures = Mapping[str, tuple[int, ...]]
"""Name → the class numbers that it consists of."""
METRICS = ("dice", "iou", "voe", "hd95", "assd")
"""Higher is better for the first two; the distances are in millimetres."""


@dataclass(frozen=True)
class Overlap:
    """Voxels of one class in the prediction, in the reference, and in both."""

    predicted: int
    reference: int
    both: int

    @property
    def dice(self) -> float:
        """2 |P ∩ G| / (|P| + |G|), in [0, 1] (AMTKD, Eq. 8); 1 where both are empty, 0 where one is."""
        total = self.predicted + self.reference
        return 2 * self.both / total if total else 1.0

    @property
    def iou(self) -> float:
        """|P ∩ G| / |P ∪ G|, in [0, 1]; 1 where both are empty, 0 where one is."""
        union = self.predicted + self.reference - self.both
        return self.both / union if union else 1.0

    @property
    def voe(self) -> float:
        """Volumetric overlap error, 1 - IoU, in [0, 1]; 0 where both are empty, 1 where one is.

        Departs: AMTKD's Eq. 9 prints 1 - |P ∩ G| / (|P| + |G|), with which a perfect mask scores 0.5.
        """
        return 1 - self.iou

    @property
    def voe_emkd(self) -> float:
        """2 (|P| - |P ∩ G|) / (|P| + |G|): false positives only; 0 where the prediction is empty.

        Source: EMKD's code. All printed figures of AMTKD's Tables 3 and 4 fit it; use it only beside them.
        """
        total = self.predicted + self.reference
        return 2 * (self.predicted - self.both) / total if total else 0.0


def overlaps(prediction: NDArray[Any], reference: NDArray[Any], classes: int) -> list[Overlap]:
    """One `Overlap` for each of `classes`, background first, from two label arrays of one shape.

    Raises: ValueError when shapes differ or a label is no class.
    """
    each = {str(label): (label,) for label in range(classes)}
    return list(overlaps_of(prediction, reference, classes, each).values())


def overlaps_of(
    prediction: NDArray[Any], reference: NDArray[Any], classes: int, structures: Structures
) -> dict[str, Overlap]:
    """One `Overlap` for each structure, which may share classes with another; errors as in `overlaps`."""
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    for labels in (prediction, reference):
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"labels reach from {labels.min()} to {labels.max()}, classes from 0 to {classes - 1}")
    pairs = prediction.astype(np.int64).ravel() * classes + reference.ravel()
    table = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    found = {}
    for name, parts in structures.items():
        own = list(parts)
        found[name] = Overlap(int(table[own].sum()), int(table[:, own].sum()), int(table[np.ix_(own, own)].sum()))
    return found


def mean_dice(prediction: NDArray[Any], reference: NDArray[Any], *, classes: int) -> float:
    """Dice of a case, mean over the foreground classes; a class on neither side counts 1. Quick: no distances."""
    return float(np.mean([overlap.dice for overlap in overlaps(prediction, reference, classes)[1:]]))


def case_metrics(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    *,
    classes: int,
    structures: Structures,
    spacing_mm: Sequence[float],
) -> dict[str, dict[str, float | None]]:
    """Every metric of a case, {metric: {structure: value}}; ready for JSON.

    Shapes: label arrays (D, H, W) on the scan's own grid, of labels below `classes`; `spacing_mm` in the order of their
    axes.
    Empty on both sides: Dice and IoU 1, VOE and both distances 0. Empty on one side: Dice and IoU 0, VOE 1, and the
    distances None. There is no distance to nothing: an agreed penalty, such as the scan's diagonal, would measure the
    field of view and swamp the mean; so a report counts these cases beside its mean, and they weigh in the Dice.
    """
    values: dict[str, dict[str, float | None]] = {metric: {} for metric in METRICS}
    for name, overlap in overlaps_of(prediction, reference, classes, structures).items():
        for metric in ("dice", "iou", "voe"):
            values[metric][name] = getattr(overlap, metric)
        labels = structures[name]
        values["hd95"][name], values["assd"][name] = surface_distances(
            np.isin(prediction, labels), np.isin(reference, labels), spacing_mm=spacing_mm
        )
    return values


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], *, spacing_mm: Sequence[float]
) -> tuple[float | None, float | None]:
    """HD95 and ASSD in millimetres: the larger of both sides' 95th percentiles, and the mean over both surfaces.

    By MONAI. 0 where both are empty, None where one is. Across a single slice outlines are compared, not areas.
    """
    if not prediction.any() and not reference.any():
        return 0.0, 0.0
    if not prediction.any() or not reference.any():
        return None, None
    box = _bounding_box(prediction | reference)
    flat = 0 if prediction.shape[0] == 1 else slice(None)
    p, g = (labels[box][flat][None, None] for labels in (prediction, reference))
    spacing = [float(mm) for mm in (spacing_mm[1:] if flat == 0 else spacing_mm)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls itself with an argument that it deprecates
        hd95 = compute_hausdorff_distance(p, g, include_background=True, percentile=95, spacing=spacing)
        assd = compute_average_surface_distance(p, g, include_background=True, symmetric=True, spacing=spacing)
    return float(hd95), float(assd)


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The part that holds all of it: a tenth of a scan or less, where distances then cost a tenth."""
    spans = [np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
