"""Another scanner simulated on real MR scans: sets that come from one site can then stand for several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from imaging.atomic import replacing
from imaging.cohort import Case, Problem, inspect, select
from imaging.errors import InputError
from imaging.phantom_files import claim, write_nifti
from imaging.phantom_scanner import MrScanner, acquire_mr, sensitivity
from imaging.phantom_scene import Grid
from imaging.scanner import Scanner
from imaging.volume import Volume

VERSION = 1
"""Counts up whenever the same seed gives other scans."""
MANIFEST = "rescan.json"
NOTE = "REAL SCAN, SIMULATED SCANNER"
BRIGHTEST = 99.5
"""Percentile of a scan that noise is measured by: a few voxels in a vessel may be far brighter."""
STORED = 1000.0
"""Whole numbers that stand for it."""
FIELD_T = 3.0
"""Nothing depends on it: a tag of phantoms."""


@dataclass(frozen=True)
class Rescanned:
    """How many patients were written, and what could not be used."""

    patients: int
    problems: tuple[Problem, ...]


def rescan(image: Volume, scanner: Scanner, rng: np.random.Generator) -> Volume:
    """The scan as the other scanner would have stored it, int16 (D, H, W), on the same grid."""
    low, high = np.percentile(image.array, (0, BRIGHTEST))
    signal = (np.maximum(image.array - np.float32(low), 0) / np.float32(max(high - low, 1e-6))) ** np.float32(
        scanner.gamma
    )
    d, h, w = image.array.shape
    grid = Grid((d, h, w), image.spacing_mm)
    bias = sensitivity(rng, grid, scanner.shading)
    magnet = MrScanner(FIELD_T, scanner.blur_mm, scanner.noise, scanner.shading, STORED)
    return replace(image, array=acquire_mr(rng, signal, bias, grid, magnet))


def write_rescanned(
    source: Path,
    folder: Path,
    scanner: Scanner,
    *,
    seed: int,
    patients: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rescanned:
    """Write the scans of `source` again, as another scanner would have made them, with their masks.

    `patient-0000/scan-0/image.nii.gz` and `mask.nii.gz`, in the order of the patients' ids and without the ids; a
    patient who is there already stays, one whose scans cannot be read has an empty folder. `patients` as in
    `cohort.select`, of those with MR scans; `progress(done, of)` after every patient.
    Raises: InputError where nothing can be used, or the folder holds something else.
    """
    found = inspect(source)
    problems = [*found.problems, *(_foreign(case) for case in found.cases if not _is_mr(case))]
    try:
        cases = select(filter(_is_mr, found.cases), patients, None)
    except InputError as error:
        raise InputError(error.what, where=source, fix=error.fix) from error
    content = {**scanner.model_dump(), "source": str(source), "patients": patients and list(patients), "seed": seed}
    claim(folder, MANIFEST, {"synthetic": False, "rescanned": content, "version": VERSION})
    by_patient = [list(own) for _, own in groupby(cases, key=lambda case: case.patient)]
    for number, own in enumerate(by_patient):
        target = folder / f"patient-{number:04d}"
        if not target.exists():
            with replacing(target) as temporary:
                temporary.mkdir(parents=True)
                problems += _write(temporary, own, scanner, [VERSION, seed, number])
        if progress:
            progress(number + 1, len(by_patient))
    return Rescanned(len(by_patient), tuple(problems))


def _write(folder: Path, cases: list[Case], scanner: Scanner, seed: list[int]) -> list[Problem]:
    """One patient's scans, and what could not be read of them."""
    problems = []
    for number, case in enumerate(cases):
        try:
            image, mask = case.read_image(), case.read_mask()
        except InputError as error:
            problems.append(Problem.of(error, case.files[0]))
            continue
        again = rescan(image, scanner, np.random.default_rng([*seed, number]))
        write_nifti(folder / f"scan-{number}", again, mask, note=NOTE)
    return problems


def _is_mr(case: Case) -> bool:
    """Whether a study of MR counts it among its patients: a NIfTI file does not say what it is."""
    return case.modality in ("", "MR")


def _foreign(case: Case) -> Problem:
    return Problem(f"the scan is {case.modality}, and MR alone can be scanned again", case.files[0], "leave it out")
