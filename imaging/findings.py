"""What lies in a folder: scans, masks, and files that cannot be used. Every file is looked at, whatever its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID, RTDoseStorage, RTStructureSetStorage, SegmentationStorage

from imaging.dicom import stack, volumes
from imaging.dicom_header import Slice, damaged_header, patient_of, read_header, slice_of
from imaging.dicom_masks import dicom_seg
from imaging.dicom_multiframe import multiframe
from imaging.errors import InputError
from imaging.geometry import Source
from imaging.names import Words, of_file, patients, stem, words
from imaging.nifti import Nifti, head_of, is_nifti, read_nifti

LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""SOP class of a SEG that stores class values instead of one frame a segment (DICOM 2024d)."""
Progress = Callable[[int, int], None]
OTHER_FORMATS = {
    **dict.fromkeys((".nrrd", ".mha", ".mhd", ".mgz", ".hdr"), "convert it to NIfTI (.nii.gz) or DICOM"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".rar", ".7z"), "unpack it"),
}
"""Scans in files that are not read here, and what to do."""


@dataclass(frozen=True)
class Problem:
    """Something that cannot be used. `what` and `fix` hold no names or ids, and may be sent on; `where` stays here."""

    what: str
    where: Path
    fix: str

    @classmethod
    def of(cls, error: InputError, where: Path) -> Problem:
        """An InputError as a problem; `where` in case it names no place."""
        return cls(error.what, Path(error.where) if error.where is not None else where, error.fix or "export it again")


@dataclass(frozen=True)
class Found:
    """A scan or a mask that can be read, and what its names tell."""

    source: Source
    path: Path
    """Relative to the cohort's folder."""
    names: Words

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """Where it lies in the cohort's folder."""
        return self.path.parent.parts

    @cached_property
    def all_names(self) -> Words:
        """The folders' words and its own."""
        return words(*self.folders) + self.names


@dataclass(frozen=True)
class Scan(Found):
    """A scan and whose it is."""

    patient: str
    id: str
    series: str = ""
    """SeriesInstanceUID of a DICOM series."""


@dataclass(frozen=True)
class Mask(Found):
    """A mask and the distinct values in it."""

    values: tuple[int, ...]
    patient: str = ""
    """PatientID, and `series` the SeriesInstanceUID of the scan it was drawn on, where it says."""
    series: str = ""


@dataclass
class Findings:
    """Everything found in one folder."""

    folder: Path
    scans: list[Scan] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    broken_series: set[str] = field(default_factory=set)
    """SeriesInstanceUIDs of scans among the problems."""
    _slices: list[Slice] = field(default_factory=list)
    _nifti: list[Nifti] = field(default_factory=list)

    def add(self, path: Path, *, most_labels: int, channels: int | None = 1) -> None:
        """Look at one file; InputError when it is a scan or mask that cannot be used."""
        head = head_of(path)
        if is_nifti(head):
            self._add_nifti(path, most_labels, channels)
        elif head[128:132] == b"DICM" or (head[:1] in (b"\x02", b"\x08") and head[1:2] == head[3:4] == b"\0"):
            self._add_dicom(path)
        elif path.suffix.lower() in OTHER_FORMATS:
            raise InputError(
                f"{path.suffix.lower()} files are not read", where=path, fix=OTHER_FORMATS[path.suffix.lower()]
            )
        elif path.name.lower().endswith((".nii", ".nii.gz", ".dcm")):
            raise InputError("empty, cut short, or not what its name says", where=path, fix="copy or export it again")

    def _add_nifti(self, path: Path, most_labels: int, channels: int | None) -> None:
        source, values = read_nifti(path, most_labels=most_labels, channels=channels)
        relative = path.relative_to(self.folder)
        if source.is_mask:
            self.masks.append(Mask(source, relative, words(stem(path.name)), values))
        else:
            self._nifti.append(source)

    def _add_dicom(self, path: Path) -> None:
        dataset, pixel_bytes = read_header(path)
        kind = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))
        relative = path.relative_to(self.folder)
        if kind in (SegmentationStorage, LABEL_MAP):
            seg, values = dicom_seg(path, dataset)
            names = words(patient_of(dataset), stem(path.name))
            self.masks.append(Mask(seg, relative, names, values, patient_of(dataset), seg.series))
        elif kind == RTStructureSetStorage:
            raise InputError(
                "contours (RTSTRUCT) are not used yet",
                where=path,
                fix="convert them to DICOM SEG or NIfTI, for example with 3D Slicer",
            )
        elif "Rows" not in dataset and "Image" in UID(kind).name:
            raise damaged_header(path)
        elif "Rows" not in dataset or kind == RTDoseStorage:
            return  # an index, a report, a plan: nothing that a network could learn from
        elif "PerFrameFunctionalGroupsSequence" in dataset or int(dataset.get("NumberOfFrames") or 1) > 1:
            self.scans.append(_dicom_scan(multiframe(path, dataset), relative, dataset))
        else:
            self._slices.append(slice_of(path, dataset, pixel_bytes))

    def assemble(self) -> None:
        """Series out of the slices that were found, and patients out of the NIfTI scans' names."""
        for slices in volumes(self._slices):
            try:
                source = stack(slices)
            except InputError as error:
                self.problems.append(Problem.of(error, slices[0].path.parent))
                self.broken_series.add(slices[0].series)
            else:
                path = source.files[0]
                self.scans.append(_dicom_scan(source, path.relative_to(self.folder), read_header(path)[0]))
        paths = {source: source.path.relative_to(self.folder) for source in self._nifti}
        found = patients(list(paths.values()))
        for nifti, path in paths.items():
            self.scans.append(Scan(nifti, path, of_file(stem(path.name)), found[path], stem(path.name)))


def _dicom_scan(source: Source, path: Path, dataset: Dataset) -> Scan:
    """A DICOM scan with what the header of one of its files tells of it."""
    patient, number = patient_of(dataset), dataset.get("SeriesNumber")
    name = patient if number in (None, "") else f"{patient}-s{number}"
    names = words(patient, str(dataset.get("SeriesDescription") or ""))
    return Scan(source, path, names, patient, name, str(dataset.get("SeriesInstanceUID") or ""))


def find(folder: Path, *, most_labels: int, channels: int | None = 1, progress: Progress | None = None) -> Findings:
    """Look at every file below `folder`, hidden ones left out; what cannot be used becomes a problem."""
    findings = Findings(folder)
    files = list(_files(folder))
    for done, path in enumerate(files, 1):
        try:
            findings.add(path, most_labels=most_labels, channels=channels)
        except InputError as error:
            findings.problems.append(Problem.of(error, path))
        except OSError:
            findings.problems.append(Problem("the file cannot be opened", path, "check that you may read it"))
        if progress is not None:
            progress(done, len(files))
    findings.assemble()
    return findings


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = (Path(place, name) for name in sorted(names) if not name.startswith("."))
        yield from (path for path in files if path.is_file() or not path.exists())  # a pipe would be waited for
