"""NIfTI scans and masks, told apart by what is in them."""

from __future__ import annotations

import gzip
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from imaging.errors import InputError
from imaging.geometry import blank
from imaging.volume import Volume

MOST_LABELS = 64
"""A file of whole numbers from 0 with at most so many distinct values is a mask, any other a scan."""
FEW_VALUES = 8
"""A file of at most so many values, one of them below 0 or no whole number, is no scan but a mask gone wrong."""
MAX_LABEL = 254
"""255 says that a slice has no mask."""
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
HEADER_BYTES = 352
GZIP = b"\x1f\x8b"
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it mends in a header it tells without the file


@dataclass(frozen=True)
class Nifti:
    """One NIfTI file, .nii or .nii.gz. Its third axis is the slices', as converters from DICOM write it."""

    path: Path
    grid: Volume = field(compare=False, repr=False)
    is_mask: bool
    channels: int = 1
    """Sequences of a scan in one file, along its fourth axis."""
    oriented: bool = True
    """Whether the header says how the voxels lie in the patient; if not, nibabel's guess stands."""

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> Volume:
        """Scan: float32; mask: uint8."""
        with opened(self.path, whole=True) as image:
            values = np.asarray(image.dataobj)
        if self.is_mask and values.max() > MAX_LABEL:
            raise InputError(
                f"class value {values.max():g} is above {MAX_LABEL}", where=self.path, fix="number the classes from 1"
            )
        sides = self.grid.array.shape[::-1]
        if self.channels > 1:
            array = values.reshape(*sides, self.channels).transpose(2, 1, 0, 3)
        else:
            array = values.reshape(sides).transpose(2, 1, 0)
        array = np.ascontiguousarray(array, np.uint8 if self.is_mask else np.float32)
        return Volume(array, self.grid.affine, self.grid.modality)


def is_nifti(head: bytes) -> bool:
    """Whether a file (unpacked) that starts with these 352 bytes is a NIfTI-1 or NIfTI-2 of one file."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def head_of(path: Path) -> bytes:
    """The first 352 bytes of a file, unpacked where it is gzipped; fewer where it is shorter or damaged."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if head[:2] != GZIP:
        return head
    try:
        with gzip.open(path) as unpacked:
            return unpacked.read(HEADER_BYTES)
    except (OSError, EOFError):
        return b""


def read_nifti(
    path: Path, *, most_labels: int = MOST_LABELS, channels: int | None = 1
) -> tuple[Nifti, tuple[int, ...]]:
    """A NIfTI file as scan or mask, and the distinct values of a mask (none of a scan).

    A mask is read once, slice by slice; a scan only until it shows that it is no mask.

    Raises: InputError when it is damaged, in colour, without a usable affine, or has a fourth axis of other than
    `channels` (None: any number will do).
    """
    with opened(path) as image:
        shape = tuple(image.shape) + (1,) * (3 - image.ndim)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if min(shape) < 1:
            raise InputError("the file holds no voxels", where=path, fix="export it again")
        has = _channels(shape, channels, path)
        if image.get_data_dtype().kind not in "iuf":
            raise InputError("colour or complex values", where=path, fix="save plain intensities or class values")
        affine = np.array(image.affine, np.float64)
        affine[:3] *= MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-9:
            raise _sizeless(path)
        oriented = bool(image.header["sform_code"] or image.header["qform_code"])
        values = _label_values(image, most_labels) if has == 1 else None
    if values is None and channels not in (None, has):
        raise _other_channels(has, channels or 1, path)
    grid = blank(shape[2::-1], affine[:, [2, 1, 0, 3]], "" if values is None else "SEG")
    return Nifti(path, grid, values is not None, has, oriented), values or ()


def _channels(shape: tuple[int, ...], wanted: int | None, path: Path) -> int:
    """How many channels a file of that shape holds; InputError where that cannot be, or is not `wanted`."""
    has = shape[3] if len(shape) == 4 else 1
    if len(shape) > 4 or (has > 1 and wanted == 1):
        raise InputError(
            f"{len(shape)} dimensions ({' × '.join(map(str, shape))}): several time points or channels in one file",
            where=path,
            fix="save each time point as a file of three dimensions; several sequences in one file are named in the "
            "study's `task.channels`, and `preceptor site check` is told by `--channels`",
        )
    if has > 1 and wanted not in (None, has):
        raise _other_channels(has, wanted or 1, path)
    return has


def _other_channels(has: int, wanted: int, path: Path) -> InputError:
    what = f"{has} channel{'s' * (has > 1)} in the file, and the study names {wanted}"
    return InputError(what, where=path, fix="put all sequences of `task.channels` into one file, in that order")


def _label_values(image: Any, most: int) -> tuple[int, ...] | None:
    """The distinct values of a mask in ascending order; None as soon as the file shows that it is a scan."""
    found = np.zeros(0)
    for index in range(image.shape[-1]):
        values = np.unique(np.asarray(image.dataobj[..., index]))
        found = np.union1d(found, values)
        if len(found) > most:
            return None
    if (found >= 0).all() and (found == np.rint(found)).all():
        return tuple(int(value) for value in found)
    if 1 < len(found) <= FEW_VALUES:
        held = ", ".join(f"{value:g}" for value in found)
        raise InputError(f"neither scan nor mask: it holds {held} only", fix="save classes as whole numbers: 0, 1, 2")
    return None


def _check_spacing(header: nib.Nifti1Header, path: Path) -> None:
    """InputError for a voxel size of 0 that no sform replaces: nibabel would take it for 1 mm."""
    if not header["sform_code"] and not header["pixdim"][1 : 1 + min(header["dim"][0], 3)].all():
        raise _sizeless(path)


def _sizeless(path: Path) -> InputError:
    return InputError("the header gives no usable voxel size", where=path, fix="convert it again from the original")


@contextmanager
def opened(path: Path, *, whole: bool = False) -> Iterator[Any]:
    """The file as nibabel sees it, whatever its name, values still on disk; damage shows as InputError.

    `whole` reads to the end, where gzip's checksum stands.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == GZIP
        with cast(BufferedIOBase, gzip.open(path) if zipped else path.open("rb")) as stream:
            kind = nib.Nifti2Image if struct.unpack("<i", stream.read(4))[0] in (540, 469893120) else nib.Nifti1Image
            stream.seek(0)
            _check_spacing(kind.header_class.from_fileobj(stream, check=False), path)
            stream.seek(0)
            yield kind.from_stream(stream)
            while whole and stream.read(2**20):
                pass
    except InputError:
        raise
    except Exception as error:  # gzip, zlib, nibabel and numpy each have errors of their own
        raise InputError("the file is cut short or damaged", where=path, fix="copy or export it again") from error
