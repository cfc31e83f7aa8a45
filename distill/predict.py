"""A student at work: one scan in, a mask in the scan's own geometry out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.cohort import Case, inspect
from imaging.errors import InputError
from imaging.mask_files import check_name, write_mask
from imaging.nifti import head_of, is_nifti, read_nifti
from imaging.preprocess import Preprocess, other_channels
from imaging.sheet import picture_of, write_sheet
from imaging.volume import Volume, reorient
from study.reader import Reader
from study.student import Leaflet

ALIKE = "name a scan of about that resolution, or another student"
COARSEST = 2.0
"""A scan whose pixels are more than so many times the student's spacing shows less than it was trained to see."""
NO_MR = -500.0
"""No MR scan has such values, and every CT has air."""


@dataclass(frozen=True)
class Prediction:
    """What was found in one scan: `labels` (D, H, W) class numbers on its own voxels."""

    case: Case
    scan: Volume
    labels: NDArray[np.uint8]
    leaflet: Leaflet
    seconds: float
    """From the scan in memory to the mask."""

    @property
    def maker(self) -> str:
        """Who made it, for a DICOM SEG and the picture's title."""
        return f"{self.leaflet.study}: {self.leaflet.label}"

    @property
    def oriented(self) -> bool:
        """Whether the scan says how it lies in the patient, or that was guessed."""
        return self.case.oriented

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Millilitres of each foreground class."""
        voxel = abs(float(np.linalg.det(self.scan.affine[:3, :3]))) / 1000  # also where the gantry was tilted
        return {name: float((self.labels == n).sum()) * voxel for n, name in enumerate(self.leaflet.classes) if n}


def predict(scan: Path, student: Path, *, threads: int = 2) -> Prediction:
    """What a student finds in a scan: a NIfTI file, a DICOM file, or a folder with one DICOM series.

    Raises: InputError where `student` holds none, or the scan cannot be read, is not one, or is not of the kind
    that the student was made for.
    """
    reader = open_student(student, threads=threads)
    case = scan_of(scan, channels=max(1, len(reader.leaflet.channels)))
    image = case.read_image()
    check(image, reader.leaflet, reader.plan, scan)
    started = time.monotonic()
    labels = reader.labels(image)
    return Prediction(case, image, labels, reader.leaflet, time.monotonic() - started)


def open_student(student: Path, *, threads: int) -> Reader:
    """The student in a folder, or in an ONNX file that `preceptor export` wrote; InputError where there is none."""
    if student.suffix == ".onnx":
        from study.exported import reader_of  # noqa: PLC0415 (one of both runtimes is enough)

        return reader_of(student, threads=threads)
    from study import prediction, training  # noqa: PLC0415 (one of both runtimes is enough)

    training.use_threads(threads)
    return prediction.reader_of(*prediction.load_student(student))


def write(prediction: Prediction, out: Path, preview: Path) -> None:
    """The mask as `out` says (`imaging.mask_files`), and a picture of its fullest slice."""
    check_places(out, preview)
    for path in (out, preview):
        if path.resolve() in {file.resolve() for file in prediction.case.image.files}:
            raise InputError("is a file of the scan itself", where=path, fix="name another file for the output")
    classes, maker = prediction.leaflet.classes, prediction.maker
    write_mask(out, prediction.labels, prediction.case.image, classes=classes, maker=maker)
    labels = Volume(prediction.labels, prediction.scan.affine)
    found = ", ".join(f"{name} {ml:.1f} ml" for name, ml in prediction.volumes_ml.items())
    write_sheet(preview, [picture_of(out.name, found, prediction.scan, labels)], title=maker, cases=1)


def check_places(out: Path, preview: Path) -> None:
    """InputError where mask and picture cannot be written so."""
    if not out.parent.is_dir():
        raise InputError("there is no such folder", where=out.parent, fix="make it, or name another")
    check_name(out)
    if out.resolve() == preview.resolve():
        raise InputError("is to hold both mask and picture", where=out, fix="name another file with `--preview`")


def scan_of(path: Path, *, channels: int = 1) -> Case:
    """The one scan of so many channels that `path` is or holds; masks beside it are not looked at."""
    if not path.exists():
        raise InputError("there is no such file or folder", where=path, fix="name a NIfTI file or a DICOM folder")
    if path.is_file() and (is_nifti(head_of(path)) or ".nii" in path.suffixes):  # a broken one says why itself
        scan, _ = read_nifti(path, channels=channels)
        return Case(path.name.partition(".")[0], "", scan.grid.modality, scan)
    found = inspect(path if path.is_dir() else path.parent, channels=channels)
    cases = [case for case in found.cases if path.is_dir() or path in case.image.files]
    if len(cases) == 1:
        return cases[0]
    if cases:
        names = ", ".join(str(case.image.files[0].parent) for case in cases[:3])
        raise InputError(f"holds {len(cases)} scans", where=path, fix=f"name one of them, such as {names}")
    why = next((f": {one.what}" for one in found.problems if path.is_dir() or one.where == path), "")
    raise InputError(f"holds no scan that can be read{why}", where=path, fix="`preceptor site check` says more")


def _check_values(lowest: float, modality: str, scan: Path) -> None:
    """InputError where a scan's lowest value cannot be that of a scan of this modality."""
    if modality == "CT" and lowest >= 0:
        what = (
            "no value of the scan is below 0, as air and fat are in Hounsfield units, and the student was made for CT"
        )
        raise InputError(what, where=scan, fix="name a CT in Hounsfield units, or another student")
    if modality == "MR" and lowest < NO_MR:
        what = f"the scan's values go down to {lowest:g}, as a CT's do, and the student was made for MR"
        raise InputError(what, where=scan, fix="name an MR scan, or another student")


def check(image: Volume, leaflet: Leaflet, plan: Preprocess, scan: Path) -> None:
    """InputError where the student was made for other scans."""
    if image.channels != (channels := max(1, len(leaflet.channels))):
        raise other_channels(image.channels, channels)
    if leaflet.modality and image.modality not in ("", leaflet.modality):
        what = f"the scan is {image.modality}, the student was made for {leaflet.modality}"
        raise InputError(what, where=scan, fix="name a scan of that kind, or another student")
    if not image.modality:  # a NIfTI file does not say what it is; its values do, as far as they can
        _check_values(float(image.array.min()), leaflet.modality, scan)
    apart, *pixel = reorient(image).spacing_mm
    wanted = leaflet.pixel_mm or max((plan.spacing_mm or (0.0,))[-2:])
    if _unlike(max(pixel), wanted, resampled=plan.spacing_mm is not None):
        what = f"the scan's pixels are {max(pixel):.2f} mm wide in the axial plane, the student's {wanted:.2f} mm"
        raise InputError(what, where=scan, fix=ALIKE)
    if _unlike(apart, leaflet.slice_mm or 0.0, resampled=len(plan.spacing_mm or ()) == 3):
        what = f"the scan's slices lie {apart:.2f} mm apart, the student's {leaflet.slice_mm:.2f} mm"
        raise InputError(what, where=scan, fix=ALIKE)


def _unlike(found: float, wanted: float, *, resampled: bool) -> bool:
    """Whether a scan is too coarse for a student, or, where it is not brought to the student's spacing, too fine."""
    return wanted > 0 and (found > COARSEST * wanted or (wanted > COARSEST * found and not resampled))
