"""Phantom cohorts: scans of patients who never were, for those who have none yet, written as a hospital's files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imaging.atomic import replacing
from imaging.errors import InputError
from imaging.phantom_files import SYNTHETIC, claim, write_dicom, write_nifti
from imaging.phantom_profiles import ALL, Profile, Scan
from imaging.volume import Volume

Format = Literal["nifti", "dicom"]
PROFILES: dict[str, Profile] = {profile.name: profile for profile in ALL}
VERSION = 1
"""Counts up whenever the same seed gives other scans."""
MANIFEST = "phantom.json"


@dataclass(frozen=True)
class Phantom:
    """One synthetic patient: scan, mask (0, 1), and the DICOM tags its scanner would write."""

    image: Volume
    mask: Volume
    organ: str
    note: str
    tags: dict[str, Any]


def make(profile: str, *, seed: int, index: int) -> Phantom:
    """Case `index` of a cohort: the same whatever the cohort's size, other cases or machine's clock."""
    chosen = _known(profile)
    scan = chosen.draw(np.random.default_rng([VERSION, seed, index, *profile.encode()]))
    patient = f"PHANTOM-{profile}-{seed:02d}-{index:04d}"
    image = Volume(scan.image, _affine(scan), chosen.modality, case=patient, patient=patient)
    mask = Volume(scan.mask, image.affine, "SEG", case=patient, patient=patient)
    return Phantom(image, mask, chosen.organ, f"{SYNTHETIC} {profile}, seed {seed}, case {index}", scan.tags)


def write_cohort(
    profile: str,
    folder: Path,
    *,
    cases: int,
    seed: int,
    format: Format = "nifti",  # noqa: A002  (the word that study.toml uses)
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `cases` cases under `folder`, `case-0000`, `case-0001`, …; cases that are there already stay as they are.

    NIfTI: `case-0007/image.nii.gz` and `mask.nii.gz`. DICOM: `case-0007/scan/*.dcm` and `case-0007/seg.dcm`.
    `phantom.json` says that all of it is synthetic and how to make it again. `progress(done, of)` after every case.
    Raises: InputError for an unknown profile, or a folder that holds something else.
    """
    _known(profile)
    _claim(folder, {"synthetic": True, "profile": profile, "seed": seed, "format": format, "version": VERSION}, cases)
    for index in range(cases):
        target = folder / f"case-{index:04d}"
        if not target.exists():
            phantom = make(profile, seed=seed, index=index)
            with replacing(target) as temporary:
                _write(temporary, phantom, format)
        if progress:
            progress(index + 1, cases)


def _write(folder: Path, phantom: Phantom, form: Format) -> None:
    if form == "nifti":
        write_nifti(folder, phantom.image, phantom.mask, note=phantom.note)
    else:
        write_dicom(folder, phantom.image, phantom.mask, organ=phantom.organ, note=phantom.note, tags=phantom.tags)


def _claim(folder: Path, manifest: dict[str, Any], cases: int) -> None:
    claim(folder, MANIFEST, manifest)
    there = len(list(folder.glob("case-*")))
    if there > cases:
        fix = "name another folder, or empty this one"
        raise InputError(f"holds {there} cases, {cases} were asked for", where=folder, fix=fix)


def _affine(scan: Scan) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Index (slice, row, column) → RAS+ mm, the scan's middle at the origin, leaning back edge down by its tilt."""
    cos, sin = np.cos(np.deg2rad(scan.tilt_deg)), np.sin(np.deg2rad(scan.tilt_deg))
    d, h, w = scan.grid.spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, -w], [-d * sin, -h * cos, 0], [d * cos, -h * sin, 0]])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(scan.grid.shape) - 1) / 2)
    return affine


def _known(profile: str) -> Profile:
    if profile not in PROFILES:
        raise InputError(f"phantom profile {profile!r} is unknown", fix=f"choose one of {', '.join(PROFILES)}")
    return PROFILES[profile]
