"""A cohort's slices in memory-mapped files: scans are read once, and a cohort never sits in memory.

    images.npy (M, c, H, W) float16   masks.npy (M, H, W) uint8   native/<case>.npy (D, H, W) uint8   index.json

It holds a site's own patients, and stays there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from imaging.atomic import clear, replacing
from imaging.cohort import COPY, Case, Problem
from imaging.crops import crop_origins
from imaging.errors import InputError
from imaging.lock import Lock
from imaging.preprocess import Preprocess
from imaging.slice_parts import VERSION, CachedCase, Part, Recipe, read_part, write_part
from imaging.windows import Patches, windows

__all__ = ["CachedCase", "SliceCache"]

Progress = Callable[[int, int], None]


class Rows(Protocol):
    """What a network sees, by its numbers: images (N, c, *shape) or masks (N, *shape)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: NDArray[np.int64] | slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class SliceCache:
    """The slices of some cases, case after case, each from feet to head; and the N slices or patches to be seen.

    Where the plan has a patch, a network sees the patches that cover each case; else every slice by itself.
    """

    folder: Path
    plan: Preprocess
    classes: int
    stamp: str
    """Changes when any file, or how it is prepared, may have changed."""
    cases: tuple[CachedCase, ...]
    problems: tuple[Problem, ...]
    """Cases put aside because they could not be read or prepared."""
    stack: NDArray[np.float16]
    """Images (M, c, H, W) of all slices, memory-mapped."""
    outlines: NDArray[np.uint8]
    """Masks (M, H, W) of all slices, memory-mapped; 255 throughout where a slice has none."""

    @property
    def images(self) -> Rows:
        """(N, c, *shape) float16, read when they are asked for."""
        return Patches(self.stack, self.origins, self.plan.patch) if self.plan.patch else self.stack

    @property
    def masks(self) -> Rows:
        """(N, *shape) uint8; 255 throughout where there is no mask."""
        return Patches(self.outlines, self.origins, self.plan.patch) if self.plan.patch else self.outlines

    @cached_property
    def origins(self) -> NDArray[np.int64]:
        """(N, 3) first slice, row and column in `stack` of each patch; ValueError where slices are seen."""
        return np.concatenate(
            [one + np.array([case.start, 0, 0]) for case, one in zip(self.cases, self._windows, strict=True)]
        )

    @cached_property
    def _windows(self) -> list[NDArray[np.int64]]:
        if self.plan.patch is None:
            raise ValueError("slices are seen whole: there are no patches")
        return [windows(case.grid.box(), case.grid.whole, self.plan.patch, self.plan.overlap) for case in self.cases]

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,) true where there is a mask."""
        return np.array([case.labelled for case in self.cases])[self.case_index]

    @cached_property
    def case_index(self) -> NDArray[np.int64]:
        """(N,) which of `cases` a slice or patch is of."""
        of_each = map(len, self._windows) if self.plan.patch else (case.stop - case.start for case in self.cases)
        return np.repeat(np.arange(len(self.cases)), list(of_each))

    def ids(self, cases: Sequence[CachedCase]) -> NDArray[np.int64]:
        """Numbers of the slices or patches of these cases, counting up."""
        wanted = {case.start for case in cases}
        return np.flatnonzero(np.array([case.start in wanted for case in self.cases])[self.case_index])

    def cases_of(self, ids: NDArray[np.int64]) -> list[CachedCase]:
        """The cases that these are of, in their order."""
        return [self.cases[number] for number in np.unique(self.case_index[ids])]

    def drawn(
        self, ids: NDArray[np.int64], random: np.random.Generator, *, foreground: float
    ) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Images (n, c, *shape) and masks (n, *shape) to train on: these slices, or a patch of the case of each.

        Such a patch lies where `random` says, about an organ with the chance `foreground`; its case is outlined.
        """
        if self.plan.patch is None:
            return self.stack[ids], self.outlines[ids]
        cases = [self.cases[number] for number in self.case_index[ids]]
        origins = crop_origins(self.outlines, cases, self.plan.patch, random, foreground=foreground)
        images, masks = (Patches(stack, origins, self.plan.patch)[:] for stack in (self.stack, self.outlines))
        return images, masks

    def native_mask(self, case: CachedCase) -> NDArray[np.uint8]:
        """The case's mask on its scan's own voxels, (D, H, W), memory-mapped.

        Raises: ValueError when it has no mask.
        """
        native = self.part(case).native
        if native is None:
            raise ValueError(f"case {case.id} has no mask")
        return native

    def hiding(self, cases: Sequence[CachedCase]) -> Self:
        """The same slices, where these cases count as without a mask; the masks themselves stay where they are."""
        hidden = {case.key for case in cases}
        shown = tuple(replace(case, labelled=case.labelled and case.key not in hidden) for case in self.cases)
        return replace(self, cases=shown)

    def identity(self) -> str:
        """32 hex digits from the content of all cases, in their order, and how they were prepared."""
        return hashlib.sha256(json.dumps([case.key for case in self.cases]).encode()).hexdigest()[:32]

    def part(self, case: CachedCase) -> Part:
        """The case alone, its slices counted from 0."""
        n, span = case.stop - case.start, slice(case.start, case.stop)
        native = self.folder / "native" / f"{case.key}.npy"
        mask = np.load(native, mmap_mode="r") if native.exists() else None
        return Part(replace(case, start=0, stop=n), self.stack[span], self.outlines[span], mask)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The cache in that folder; InputError when it is not whole."""
        try:
            note = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if note["version"] != VERSION:
                raise ValueError(f"version {note['version']}, not {VERSION}")
            images, masks = (np.load(folder / name, mmap_mode="r") for name in ("images.npy", "masks.npy"))
            cases = tuple(map(CachedCase.from_json, note["cases"]))
            problems = tuple(Problem(p["what"], Path(p["where"]), p["fix"]) for p in note["problems"])
            if not len(images) == len(masks) == cases[-1].stop:
                raise ValueError("its arrays and its index differ in length")
            plan = Preprocess.model_validate(note["plan"])
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError) as error:
            what = f"is no whole cache of slices ({type(error).__name__})"
            raise InputError(what, where=folder, fix="delete the folder to have it made again") from error
        return cls(folder, plan, note["classes"], note["stamp"], cases, problems, images, masks)

    @classmethod
    def build(
        cls,
        cases: Sequence[Case],
        plan: Preprocess,
        folder: Path,
        *,
        classes: int,
        channels: int = 1,
        progress: Progress | None = None,
    ) -> Self:
        """The slices of these cases, prepared as planned, in that folder.

        What is there and still true is kept: all of it, at once, while no file's size or time has changed; else the
        cases whose content and plan are the same. A case that cannot be used is put aside in `problems`. One case is
        in memory at a time, and an interrupted build goes on at the case it had begun. One process builds, others wait
        for it. `progress` is told (cases done, cases).

        Raises: InputError when no case can be used, or the disk is full.
        """
        recipe = Recipe(plan, classes, channels)
        stamp = recipe.stamp(cases)
        if there := cls._true(folder, stamp):
            return there
        with Lock(folder.with_name(f".{folder.name}.lock")):
            clear(folder)
            return cls._true(folder, stamp) or cls._build(cases, recipe, stamp, folder, progress)

    @classmethod
    def _build(cls, cases: Sequence[Case], recipe: Recipe, stamp: str, folder: Path, progress: Progress | None) -> Self:
        """`build`, where what is there is not true any more."""
        former, workshop = cls._former(folder), folder.with_name(f".{folder.name}.parts")
        parts, problems, seen = [], [], set[bytes]()
        for done, case in enumerate(cases, 1):
            try:
                part = _part(case, recipe, former, workshop)
                _once(part, seen)
            except (InputError, OSError) as error:
                problems.append(_problem(error, case))
                stamp = "" if _may_pass(error) else stamp  # so that the next build tries this case again
            else:  # a full disk is no fault of the case
                parts.append(part if part.kept else write_part(part, workshop / part.case.key))
            if progress:
                progress(done, len(cases))
        if not parts:
            raise _nothing(problems)
        note: dict[str, Any] = {"version": VERSION, "plan": recipe.plan.model_dump(mode="json"), "stamp": stamp}
        note |= {"classes": recipe.classes}
        note["problems"] = [{**asdict(problem), "where": str(problem.where)} for problem in problems]
        with replacing(folder) as temporary:
            _assemble(parts, note, workshop / "whole")  # there, so that what a kill leaves is found and removed
            (workshop / "whole").replace(temporary)
        shutil.rmtree(workshop, ignore_errors=True)
        return cls.open(folder)

    @classmethod
    def _true(cls, folder: Path, stamp: str) -> Self | None:
        """The cache in that folder if no file has changed since."""
        former = cls._former(folder)
        return former if former and former.stamp == stamp else None

    @classmethod
    def _former(cls, folder: Path) -> Self | None:
        try:
            return cls.open(folder)
        except InputError:
            return None


def _part(case: Case, recipe: Recipe, former: SliceCache | None, workshop: Path) -> Part:
    """The case from the former cache, from an interrupted build, or from its own files."""
    key = recipe.key(case)
    for cached in former.cases if former else ():
        if former and cached.key == key:
            return former.part(cached)
    if (workshop / key).exists():
        return read_part(workshop / key)
    return recipe.prepare(case, key)


def _once(part: Part, seen: set[bytes]) -> None:
    """Enter a case's slices among those seen; InputError where they are: one copy would train, the other test."""
    content = hashlib.sha256(np.ascontiguousarray(part.images).data).digest()
    if content in seen:
        raise InputError(COPY, fix="leave one copy in the folder")
    seen.add(content)


def _problem(error: InputError | OSError, case: Case) -> Problem:
    """Why the case cannot be used."""
    if isinstance(error, InputError):
        return Problem.of(error, case.files[0])
    what = f"cannot be read ({error.strerror or type(error).__name__})"
    return Problem(what, case.files[0], "see that the file is there and may be read")


def _may_pass(error: InputError | OSError) -> bool:
    """Whether it is the disk's fault or the network's, and no file's."""
    cause = error.__cause__ if isinstance(error, InputError) else error
    return isinstance(cause, OSError) and cause.errno is not None


def _assemble(parts: Sequence[Part], note: dict[str, Any], folder: Path) -> None:
    """All parts one after another."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "native").mkdir(parents=True)
    _concatenate([part.images for part in parts], folder / "images.npy")
    _concatenate([part.masks for part in parts], folder / "masks.npy")
    cases, stop = [], 0
    for part in parts:
        start, stop = stop, stop + len(part.images)
        cases.append(asdict(replace(part.case, start=start, stop=stop)))
        if part.native is not None:
            np.save(folder / "native" / f"{part.case.key}.npy", part.native)
    (folder / "index.json").write_text(json.dumps({**note, "cases": cases}, indent=1), encoding="utf-8")


def _concatenate(arrays: Sequence[NDArray[Any]], path: Path) -> None:
    """One .npy file of all arrays, one in memory at a time.

    Written, not mapped: on a full disk a write is refused, and a mapped page kills the process.
    """
    n, first = sum(map(len, arrays)), arrays[0]
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (n, *first.shape[1:])}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array).data)


def _nothing(problems: Sequence[Problem]) -> InputError:
    if not problems:
        return InputError("there are no cases", fix="`preceptor site check` says what the folder holds")
    first = problems[0]
    what = f"none of {len(problems)} cases can be used; the first: {first.what}"
    return InputError(what, where=first.where, fix=first.fix)
