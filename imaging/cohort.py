"""A cohort: a folder of cases, each a scan with its mask or without; chosen and split by patient, never by slice."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from imaging.errors import InputError
from imaging.findings import Mask, Problem, Progress, Scan, find
from imaging.geometry import Source, onto
from imaging.nifti import MAX_LABEL, MOST_LABELS
from imaging.pairing import pair
from imaging.volume import Volume

__all__ = ["COPY", "Case", "Inspection", "Problem", "Source", "inspect", "select", "split"]

SPLITS = ("train", "val", "test")
COPY = "the same scan is another case too, perhaps under another name"


class Divisible(Protocol):
    """What a split must know of a case, whether it lies in files or in a cache of slices."""

    @property
    def patient(self) -> str: ...

    @property
    def labelled(self) -> bool: ...


C = TypeVar("C", bound=Divisible)


@dataclass(frozen=True)
class Case:
    """One scan, perhaps with its mask, still on disk.

    `id` is unique in its cohort and fit for a file name; `id` and `patient` never leave the site.
    """

    id: str
    patient: str
    modality: str
    """DICOM's code, such as "MR"; "" where the files do not say."""
    image: Source
    mask: Source | None = None

    @property
    def labelled(self) -> bool:
        """True with a mask."""
        return self.mask is not None

    @property
    def oriented(self) -> bool:
        """Whether the scan says how its voxels lie in the patient; a DICOM file always does."""
        return getattr(self.image, "oriented", True)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the case is read from."""
        return (*self.image.files, *(self.mask.files if self.mask else ()))

    def checksum(self) -> str:
        """SHA-256 over the contents of its files, in their order."""
        state = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                state.update(hashlib.file_digest(file, "sha256").digest())
        return state.hexdigest()

    def read_image(self) -> Volume:
        """The scan, float32.

        Raises: InputError when a file is damaged, holds NaN or infinity, or one value throughout.
        """
        volume, where = self.image.read(), self.image.files[0]
        bad = int(volume.array.size - np.isfinite(volume.array).sum())
        if bad:
            raise InputError(f"the scan holds NaN or infinity in {bad} voxels", where=where, fix="export it again")
        if volume.array.min() == volume.array.max():
            raise InputError("the scan holds one value throughout", where=where, fix="export it again")
        return replace(volume, modality=self.modality, case=self.id, patient=self.patient)

    def read_mask(self) -> Volume | None:
        """The mask, uint8 class values on the scan's own voxels; None where there is none.

        Raises: InputError when the file is damaged, or does not lie on the scan's grid.
        """
        if self.mask is None:
            return None
        try:
            volume = onto(self.mask.read(), self.image.grid)
        except InputError as error:
            raise InputError(error.what, where=error.where or self.mask.files[0], fix=error.fix) from error
        return replace(volume, case=self.id, patient=self.patient)

    def without_mask(self) -> Case:
        """The same scan as if nobody had outlined it."""
        return replace(self, mask=None)


@dataclass(frozen=True)
class Inspection:
    """What a folder holds: cases in the order of their patients, and what cannot be used."""

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]


def inspect(
    folder: Path, *, classes: int | None = None, channels: int | None = 1, progress: Progress | None = None
) -> Inspection:
    """Find every scan and mask in a folder, pair them, and put aside what cannot be used.

    Headers are read and masks' values; the scans' pixels only when a case is. `classes` is how many the study has, the
    background included; without it any are taken, and `channels` how many sequences a file holds (None: any number). A
    scan whose mask is put aside stays, as a scan without a mask.
    `progress` is told (files looked at, files).

    Raises: InputError when there is no such folder.
    """
    if not folder.is_dir():
        raise InputError("is no folder", where=folder, fix="name the folder that holds the scans")
    findings = find(folder, most_labels=max(MOST_LABELS, classes or 0), channels=channels, progress=progress)
    faults = [_fault(mask, classes) for mask in findings.masks]
    findings.masks[:] = [mask for mask, fault in zip(findings.masks, faults, strict=True) if fault is None]
    pairs = pair(findings)
    names = _unique([scan.id for scan in findings.scans], [str(scan.path.parent / scan.id) for scan in findings.scans])
    cases = [_case(scan, names[index], pairs.masks.get(index)) for index, scan in enumerate(findings.scans)]
    problems = [*findings.problems, *filter(None, faults), *pairs.problems]
    return Inspection(tuple(sorted(cases, key=lambda case: (case.patient, case.id))), tuple(problems))


def _case(scan: Scan, name: str, mask: Mask | None) -> Case:
    return Case(name, scan.patient, scan.source.grid.modality, scan.source, mask.source if mask else None)


def _fault(mask: Mask, classes: int | None) -> Problem | None:
    """What is wrong with a mask's values, if anything."""
    where, most = mask.source.files[0], MAX_LABEL if classes is None else classes - 1
    if not any(mask.values):
        what = "the mask is empty, or a scan that shows nothing: it holds 0 throughout"
        return Problem(what, where, "outline the structures, export the scan again, or remove the file")
    outside = [value for value in mask.values if value > most]
    if not outside:
        return None
    held = ", ".join(map(str, outside[:5])) + (", …" if len(outside) > 5 else "")
    allowed = f"the study's classes are 0 to {most}" if classes else f"classes go up to {most}"
    return Problem(
        f"the mask holds class {held}; {allowed}", where, "renumber the mask's values to the study's classes"
    )


def _unique(names: Sequence[str], longer: Sequence[str]) -> list[str]:
    """Names fit for files; the longer one, then a number, where two would be the same."""
    count = Counter(names)
    plain = [
        re.sub(r"[^\w.-]+", "_", long if count[name] > 1 else name) for name, long in zip(names, longer, strict=True)
    ]
    seen: Counter[str] = Counter()
    found = []
    for name in plain:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def select(cases: Iterable[Case], patients: tuple[int, int] | None, masks: int | None) -> list[Case]:
    """Cases of the patients from the first number up to, not including, the second, in the order of their ids.

    Only the first `masks` of these patients keep their masks.

    Raises: InputError when no patient is left.
    """
    cases = list(cases)
    ids = sorted({case.patient for case in cases})
    chosen = ids[slice(*patients)] if patients else ids
    if not chosen:
        asked = f"patients {patients[0]} to {patients[1]} are asked for" if patients else "no case can be used"
        raise InputError(f"{asked}, and there are {len(ids)}", fix="`preceptor site check` says what the folder holds")
    keep = set(chosen if masks is None else chosen[:masks])
    return [case if case.patient in keep else case.without_mask() for case in cases if case.patient in set(chosen)]


def split(cases: Iterable[C], *, seed: int, shares: tuple[float, float, float]) -> dict[str, list[C]]:
    """Cases for "train", "val" and "test", whole patients each; the same for one seed, whatever the order of cases.

    Patients without any mask all go to train. Those with one are put in an order that depends on the seed and on
    their ids alone, and cut by the shares; so one more patient moves few others. Every share above 0 gets a patient
    as long as there are enough, train first.
    """
    cases = list(cases)
    labelled = {case.patient for case in cases if case.labelled}
    order = sorted(labelled, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    counts = _counts(len(order), shares)
    place = dict(zip(order, [name for name, n in zip(SPLITS, counts, strict=True) for _ in range(n)], strict=True))
    return {name: [case for case in cases if place.get(case.patient, "train") == name] for name in SPLITS}


def _counts(n: int, shares: tuple[float, float, float]) -> list[int]:
    """How many of n patients each share gets: one each first, then whichever lacks most."""
    counts = [0, 0, 0]
    for _ in range(n):
        empty = [index for index, share in enumerate(shares) if share > 0 and not counts[index]]
        lacking = [share * n - count for share, count in zip(shares, counts, strict=True)]
        counts[empty[0] if empty else int(np.argmax(lacking))] += 1
    return counts
