"""Which mask belongs to which scan: by reference, then by geometry, and by name only where several fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.dicom_masks import DicomSeg
from imaging.findings import Findings, Mask, Problem, Scan
from imaging.geometry import TOLERANCE_MM, another_grid, misfit
from imaging.names import (
    Words,
    contradict,
    likeness,
    numbered,
    same_patient,
    shared_folders,
    stem,
    strangers,
    told,
    words,
)
from imaging.volume import reorient

Score = tuple[bool, float, int]
Places = dict[tuple[int, ...], tuple[NDArray[np.int64], NDArray[np.float64]]]
"""Scans by the shape of their axial grid: their places in the list (N,), and their corners (N, 8, 3)."""


@dataclass(frozen=True)
class Pairs:
    """The mask of each scan that has one (by the scan's place in the list), and the masks that found none."""

    masks: dict[int, Mask]
    problems: list[Problem]


def pair(findings: Findings) -> Pairs:
    """Give each mask to the one scan it fits, at most one mask a scan.

    A DICOM SEG goes to the series it names. Any other mask goes to a scan on the same grid (corners within
    `TOLERANCE_MM`); where several scans or masks share a grid, to the one with the same or the most similar name,
    then the nearest folder. Names that follow one pattern with other numbers (patient001, patient003_seg) are two
    patients, whatever their geometry. Releases that drop the position leave many patients on one grid; there any
    numbers that differ so, in files or folders, tell two patients (001/t2, readings/002/prostate), and so do folders
    of other names where the files tell nothing (anna/image, berta/mask). What stays undecided is a problem, no guess.
    """
    places, layout = _places(findings.scans), _Layout.of(findings)
    chosen: dict[int, list[tuple[Score, Mask]]] = defaultdict(list)
    problems = []
    for mask in findings.masks:
        candidates = _candidates(mask, findings, places, layout)
        if isinstance(candidates, Problem):
            problems.append(candidates)
            continue
        scores = {index: _score(mask, findings.scans[index]) for index in candidates}
        top = max(scores.values())
        best = [index for index in candidates if scores[index] == top]
        if len(best) > 1:
            what = f"{len(best)} scans lie on this mask's grid, and no name tells which one it was drawn on"
            problems.append(_problem(mask, what, "put the mask into its scan's own folder, or give it the scan's name"))
        else:
            chosen[best[0]].append((top, mask))
    masks = {}
    for index, rivals in chosen.items():
        top = max(score for score, _ in rivals)
        winners = [mask for score, mask in rivals if score == top]
        if len(winners) == 1:
            masks[index] = winners[0]
        problems += [_rival(mask, len(winners)) for _, mask in rivals if masks.get(index) is not mask]
    return Pairs(masks, problems)


@dataclass(frozen=True)
class _Layout:
    """What a cohort's positions and folders are worth in telling its patients apart."""

    placed: bool
    """No two patients' first voxels lie in one place: positions are the scanner's, and tell more than folders do."""
    kinds: frozenset[str]
    """Words of folders in several places with scans alone or masks alone in them: `nifti`, `drawn`."""

    @classmethod
    def of(cls, findings: Findings) -> _Layout:
        return cls(_placed(findings.scans), _kinds(findings))


def _placed(scans: Sequence[Scan]) -> bool:
    there: dict[bytes, set[str]] = defaultdict(set)
    for scan in scans:
        first = scan.source.grid.affine[:3, 3].round(1) + 0.0  # a release that drops positions has one for all
        there[first.tobytes()].add(scan.patient)
    return len({scan.patient for scan in scans}) > 1 and all(len(patients) == 1 for patients in there.values())


def _kinds(findings: Findings) -> frozenset[str]:
    parents: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    holds: dict[str, set[type]] = defaultdict(set)
    for found in (*findings.scans, *findings.masks):
        for depth, folder in enumerate(found.folders):
            for word in words(folder):
                parents[word].add(found.folders[:depth])
                holds[word].add(type(found))
    return frozenset(word for word, above in parents.items() if len(above) > 1 and len(holds[word]) == 1)


def _places(scans: Sequence[Scan]) -> Places:
    found: dict[tuple[int, ...], list[tuple[int, NDArray[np.float64]]]] = defaultdict(list)
    for index, scan in enumerate(scans):
        grid = reorient(scan.source.grid)
        found[grid.array.shape].append((index, grid.corners_mm))
    return {
        shape: (np.array([index for index, _ in near]), np.array([corners for _, corners in near]))
        for shape, near in found.items()
    }


def _candidates(mask: Mask, findings: Findings, places: Places, layout: _Layout) -> list[int] | Problem:
    """The scans that a mask may belong to; or why there is none."""
    scans = findings.scans
    if mask.series:
        named = [index for index, scan in enumerate(scans) if scan.series == mask.series]
        fitting = [index for index in named if _fits(mask, scans[index])]
        if fitting:
            return fitting
        if named:
            return _elsewhere(mask, scans[named[0]])
        if mask.series in findings.broken_series:
            what = "the scan that this mask was drawn on cannot be used"
            return _problem(mask, what, "mend that scan, see its own line")
    if isinstance(mask.source, DicomSeg):
        on_grid = [index for index, scan in enumerate(scans) if _fits(mask, scan)]
    else:
        grid = reorient(mask.source.grid)
        near, corners = places.get(grid.array.shape, (np.zeros(0, np.int64), np.zeros((0, 8, 3))))
        apart_mm = np.linalg.norm(corners - grid.corners_mm, axis=2).max(1)
        on_grid = [int(index) for index in near[apart_mm <= TOLERANCE_MM]]
    candidates = [index for index in on_grid if not _other_patient(mask, scans[index], layout)]
    return candidates or _homeless(mask, scans, layout, shared=bool(on_grid))


def _fits(mask: Mask, scan: Scan) -> bool:
    return misfit(mask.source.grid, scan.source.grid) is None


def _other_patient(mask: Mask, scan: Scan, layout: _Layout) -> bool:
    if mask.patient and scan.series:
        return mask.patient != scan.patient
    names = [(mask.names, scan.names), (mask.names, words(scan.patient)), (mask.all_names, scan.all_names)]
    if any(contradict(*both) for both in names):
        return True
    return not (scan.series or layout.placed) and _of_another_name(mask, scan, layout.kinds)


def _of_another_name(mask: Mask, scan: Scan, kinds: Collection[str]) -> bool:
    """The same where many patients may lie on one grid, so that names alone tell them apart."""
    whole = words(*scan.folders, stem(scan.path.name))  # a scan's `_0000` may be no channel but its number
    theirs, *its = (numbered(_but(kinds, names)) for names in (mask.all_names, scan.all_names, whole))
    if any(contradict(theirs, one) for one in its):
        return True
    same = same_patient(mask.path, scan.path)
    if same is not None or told(mask.names + scan.names):
        return same is False
    return strangers(_but(kinds, words(*mask.folders)), _but(kinds, words(*scan.folders)))


def _but(left_out: Collection[str], names: Words) -> Words:
    return tuple(word for word in names if word not in left_out)


def _score(mask: Mask, scan: Scan) -> Score:
    return (*likeness(mask.names, scan.names), shared_folders(mask.folders, scan.folders))


def _homeless(mask: Mask, scans: Sequence[Scan], layout: _Layout, *, shared: bool) -> Problem:
    """Why no scan takes this mask: the one of its name lies elsewhere, or there is none."""
    namesakes = [scan for scan in scans if scan.names == mask.names and not _other_patient(mask, scan, layout)]
    near = sorted(namesakes, key=lambda scan: -shared_folders(mask.folders, scan.folders))
    if near and mask.names:
        return _elsewhere(mask, near[0])
    what = "no scan in this folder lies on this mask's grid"
    if shared:
        what = "the scans on this mask's grid are named for other cases"
    if not scans:
        what = "a mask without any scan"
    return _problem(mask, what, "put the scan that it was drawn on into the folder, and name both alike")


def _elsewhere(mask: Mask, scan: Scan) -> Problem:
    grids = mask.source.grid, scan.source.grid
    depths = [len(grid.array) for grid in grids]
    error = misfit(*grids) or another_grid(f"{depths[0]} slices, the scan {depths[1]}")
    return Problem.of(error, mask.source.files[0])


def _rival(mask: Mask, winners: int) -> Problem:
    what = "another mask fits this mask's scan better by its name"
    if winners > 1:
        what = f"{winners} masks lie on the grid of one scan, and no name tells which is meant"
    return _problem(mask, what, "leave only the mask to learn from in this folder")


def _problem(mask: Mask, what: str, fix: str) -> Problem:
    return Problem(what, mask.source.files[0], fix)
