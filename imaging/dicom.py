"""DICOM series: slices told apart, put in order, and read as one volume."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import ImplicitVRLittleEndian

from imaging.dicom_header import Slice, quiet
from imaging.errors import InputError
from imaging.geometry import blank
from imaging.volume import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_PLACE_MM = 0.01
UNEVEN = 0.1
"""Share of the spacing that a gap may differ by; scanners round positions to a few micrometres."""
AGAIN = "export the series again"


@dataclass(frozen=True)
class DicomSeries:
    """One series of single-frame files, ordered along the normal of its slices."""

    files: tuple[Path, ...]
    grid: Volume = field(compare=False, repr=False)

    def read(self) -> Volume:
        """The scan as float32, in what its rescale slope and intercept make of it (HU in CT)."""
        array = np.empty(self.grid.array.shape, np.float32)
        for path, out in zip(self.files, array, strict=True):
            out[:] = _pixels(path, out.shape)
        return Volume(array, self.grid.affine, self.grid.modality)


def _pixels(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:  # files from before DICOM had a file header
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            pixels = apply_modality_lut(dataset.pixel_array, dataset)
    except Exception as error:  # each decoder has errors of its own
        raise InputError(
            "a slice's pixels are cut short or damaged", where=path, fix="export this file again"
        ) from error
    if pixels.shape != shape:
        raise InputError(
            "a slice has another size than when the folder was read", where=path, fix="read the folder again"
        )
    return np.asarray(pixels, np.float32)


def volumes(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of any number of series and patients as one list a volume, each still in any order.

    Within one SeriesInstanceUID, slices of another orientation, size or spacing are another volume (localisers); and
    where several lie at one place, copies in another folder, echoes, image types (magnitude, phase), time points and
    b-values are, as far as that leaves no more volumes than slices at a place.
    """
    grids: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
    for one in slices:
        grids[one.series, one.patient, one.shape, *np.round(one.spacing_mm, 3)].append(one)
    return [volume for series in grids.values() for parallel in _parallel(series) for volume in _told_apart(parallel)]


def _parallel(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices by orientation, the same within about 0.1 degrees."""
    found: list[list[Slice]] = []
    for one in slices:
        for parallel in found:
            if np.allclose(parallel[0].orientation, one.orientation, atol=2e-3):
                parallel.append(one)
                break
        else:
            found.append([one])
    return found


def _told_apart(slices: list[Slice]) -> list[list[Slice]]:
    heights = np.sort(_heights(slices))
    places = np.split(heights, np.flatnonzero(np.diff(heights) > SAME_PLACE_MM) + 1)
    most = max(map(len, places))
    if most == 1:
        return [slices]
    for marks in zip(*((str(one.path.parent), *one.marks) for one in slices), strict=True):
        groups: dict[str, list[Slice]] = defaultdict(list)
        for one, mark in zip(slices, marks, strict=True):
            groups[mark].append(one)
        if 1 < len(groups) <= most:
            return [volume for group in groups.values() for volume in _told_apart(group)]
    return [slices]


def _normal(slices: Sequence[Slice]) -> NDArray[np.float64]:
    row, column = np.array(slices[0].orientation).reshape(2, 3)
    return np.asarray(np.cross(row, column), np.float64)


def _heights(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Where each slice lies along the normal, in millimetres."""
    return np.asarray(np.array([one.position for one in slices]) @ _normal(slices), np.float64)


def stack(slices: Sequence[Slice]) -> DicomSeries:
    """Slices of one volume, in any order, as a series.

    Raises: InputError that names missing, doubled, uneven, truncated or undecodable slices.
    """
    ordered = [slices[index] for index in np.argsort(_heights(slices), kind="stable")]
    _check_pixels(ordered)
    affine = _affine(ordered, _step(ordered))
    grid = blank((len(ordered), *ordered[0].shape), affine, ordered[0].modality)
    return DicomSeries(tuple(one.path for one in ordered), grid)


def _check_pixels(slices: list[Slice]) -> None:
    faulty = [one for one in slices if one.fault]
    if not faulty:
        return
    what, where = faulty[0].fault, faulty[0].path
    if what == "cut short":
        count = (
            f"{len(faulty)} of {len(slices)} slices' files are cut short"
            if len(slices) > 1
            else "the file is cut short"
        )
        raise InputError(count, where=where, fix=AGAIN)
    raise InputError(
        f"{what}, which no decoder installed here reads",
        where=where,
        fix="`pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`, or export as Explicit VR Little Endian",
    )


def _step(slices: list[Slice]) -> NDArray[np.float64]:
    """From one slice to the next, (3,) in LPS millimetres; along the normal unless the gantry was tilted."""
    folder = slices[0].path.parent
    if len(slices) == 1:
        if slices[0].step_mm is None:
            raise InputError(
                "a series of one slice whose header gives neither thickness nor spacing: it is no volume",
                where=slices[0].path,
                fix="export the whole series",
            )
        return _normal(slices) * slices[0].step_mm
    heights, names = _heights(slices), _numbers(slices)
    gaps = np.diff(heights)
    doubled = np.flatnonzero(gaps < SAME_PLACE_MM)
    if len(doubled):
        raise _doubled(slices, names, doubled)
    spacing = float(np.quantile(gaps, 0.5, method="lower"))
    for index in np.flatnonzero(np.abs(gaps / spacing - 1) > UNEVEN):
        raise _uneven((names[index], names[index + 1]), float(gaps[index]), spacing, folder)
    positions = np.array([one.position for one in slices])
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    line = positions[0] + np.arange(len(slices))[:, None] * step
    if np.abs(positions - line).max() > UNEVEN * spacing:
        raise InputError("the slices do not lie on one line", where=folder, fix="export each stack as its own series")
    return np.asarray(step, np.float64)


def _numbers(slices: list[Slice]) -> list[int]:
    """What to call the slices: the scanner's numbers where every slice has its own, else their places from 1."""
    numbers = [one.instance for one in slices if one.instance is not None]
    return numbers if len(set(numbers)) == len(slices) else list(range(1, len(slices) + 1))


def _doubled(slices: list[Slice], names: list[int], doubled: NDArray[np.intp]) -> InputError:
    first = int(doubled[0])
    every = len(slices) / (len(slices) - len(doubled))
    if len(doubled) > 1 and every.is_integer():
        places = len(slices) - len(doubled)
        return InputError(
            f"{every:.0f} images lie at each of {places} places, and the header does not tell them apart",
            where=slices[0].path.parent,
            fix="export each time point, echo or b-value as a series of its own",
        )
    more = f" (and {len(doubled) - 1} more)" if len(doubled) > 1 else ""
    return InputError(
        f"slices {names[first]} and {names[first + 1]} lie at the same place{more}: one is a duplicate",
        where=slices[first + 1].path,
        fix="delete the duplicate, or " + AGAIN,
    )


def _uneven(names: tuple[int, int], gap: float, spacing: float, folder: Path) -> InputError:
    before, after = sorted(names)
    what = f"slices {before} and {after} are {gap:.1f} mm apart at {spacing:.1f} mm spacing"
    lacking = round(gap / spacing) - 1
    if lacking < 1 or abs(gap / spacing - lacking - 1) > UNEVEN:
        return InputError(what, where=folder, fix="export the series with even spacing")
    low, high = before + 1, after - 1
    if high - low + 1 != lacking:
        name = f"{lacking} between them {'is' if lacking == 1 else 'are'} missing"
    else:
        name = f"slice {low} is missing" if lacking == 1 else f"slices {low} to {high} are missing"
    return InputError(f"{what}: {name}", where=folder, fix=AGAIN)


def _affine(slices: list[Slice], step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Index (slice, row, column, 1) to RAS+ millimetres (DICOM PS3.3, C.7.6.2.1.1)."""
    row, column = np.array(slices[0].orientation).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column * slices[0].spacing_mm[0]
    affine[:3, 2] = row * slices[0].spacing_mm[1]
    affine[:3, 3] = slices[0].position
    return np.asarray(LPS_TO_RAS @ affine, np.float64)
