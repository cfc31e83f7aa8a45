"""What a site's folder is good for, in the words of those who have to mend it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from imaging.cohort import COPY, Case, Inspection, Problem, inspect
from imaging.errors import InputError
from imaging.sheet import MOST, Picture, picture_of, write_sheet
from imaging.volume import Volume

Use = Literal["training", "answering only", "no"]
Progress = Callable[[str, int, int], None]
"""Told what is being read, how many are done, and of how many."""

MEANING = {
    "training": "scan and mask: a teacher can learn from it",
    "answering only": "no usable mask: a teacher can be asked about it, but not learn from it",
    "no": "put aside for the reason above",
}
COLOUR = {"training": "green", "answering only": "yellow", "no": "red"}
FEWEST = 3
"""Patients with masks that training, validation and test need at least."""
SHOWN = 6
"""Places that the printed report names for one kind of problem; --json names all."""


@dataclass(frozen=True)
class Row:
    """One case: `size` columns × rows × slices, `spacing_mm` in the same order, `volumes_ml` of the mask's classes."""

    case: str
    patient: str
    modality: str
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    volumes_ml: dict[int, float]
    use: Use
    image: Path
    """The scan's first file."""
    oriented: bool
    """Whether the file says how its voxels lie in the patient."""
    mask: Path | None

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON."""
        return {
            "case": self.case,
            "patient": self.patient,
            "modality": self.modality,
            "size": list(self.size),
            "spacing_mm": [round(mm, 4) for mm in self.spacing_mm],
            "volumes_ml": {str(value): round(volume, 3) for value, volume in self.volumes_ml.items()},
            "use": self.use,
            "image": str(self.image),
            "oriented": self.oriented,
            "mask": str(self.mask) if self.mask else None,
        }


@dataclass(frozen=True)
class Report:
    """All cases of a folder and all that is wrong with it."""

    folder: Path
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """Whether anything is left that a network could learn from or be asked about."""
        return any(row.use != "no" for row in self.rows)

    def count(self, use: Use) -> int:
        """How many cases are good for that."""
        return sum(row.use == use for row in self.rows)

    def patients(self) -> int:
        """How many patients have a case to train on."""
        return len({row.patient for row in self.rows if row.use == "training"})

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON; it names patients and files, and is the site's own."""
        return {
            "folder": str(self.folder),
            "usable": self.usable,
            "cases": [row.to_json() for row in self.rows],
            "problems": [{"what": one.what, "where": str(one.where), "fix": one.fix} for one in self.problems],
        }

    def print(self, console: Console) -> None:
        """The report for the terminal; lines are never folded, so that paths can be copied."""
        if self.rows:
            console.print(self._table())
        for line in (*self._problems(), *self._summary()):
            console.print(line, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(title=escape(str(self.folder)), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        named = not all(row.case.startswith(row.patient) for row in self.rows)
        for heading in ("case", *(["patient"] if named else []), "type"):
            table.add_column(heading, overflow="fold")
        for heading in ("voxels", "spacing, mm"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("class: ml")
        table.add_column("usable for", no_wrap=True)
        for row in self.rows:
            size = "×".join(map(str, row.size))
            spacing = "×".join(f"{n:.3g}" for n in np.round(row.spacing_mm, 2))
            classes = ", ".join(f"{value}: {volume:.3g}" for value, volume in row.volumes_ml.items())
            names = [row.case, row.patient] if named else [row.case]
            use = f"[{COLOUR[row.use]}]{row.use}[/]"
            table.add_row(*map(escape, names), row.modality or "–", size, spacing, classes or "–", use)
        return table

    def _problems(self) -> Iterator[RenderableType]:
        places: dict[tuple[str, str], list[str]] = {}
        for problem in self.problems:
            places.setdefault((problem.what, problem.fix), []).append(self._place(problem.where))
        if places:
            yield f"[bold]Put aside ({len(self.problems)})[/]"
        for (what, fix), found in places.items():
            yield Text.assemble(("• ", "red"), what)
            yield Text.assemble(("  to mend it: ", "bold"), fix)
            yield from (Text(f"    {place}") for place in found[:SHOWN])
            if len(found) > SHOWN:
                yield f"    … and {len(found) - SHOWN} more (--json names all)"

    def _place(self, where: Path) -> str:
        return str(where.relative_to(self.folder)) if where.is_relative_to(self.folder) else str(where)

    def _summary(self) -> Iterator[str]:
        uses: tuple[Use, ...] = ("training", "answering only", "no")
        yield ""
        for use in uses:
            if self.count(use):
                plural = "case" if self.count(use) == 1 else "cases"
                yield f"[{COLOUR[use]}]{self.count(use)} {plural} usable for: {use}[/] ({MEANING[use]})"
        if lost := [row for row in self.rows if not row.oriented]:
            yield (
                f"[yellow]{len(lost)} of them do not say how they lie in the patient[/] (no sform or qform): they are "
                "read as if left were left. Look at the sheet, and export them with an orientation where that is wrong."
            )
        if not self.usable:
            yield "[red]Nothing here can be used.[/]"
        elif self.patients() < FEWEST:
            yield (
                f"Training, validation and test need masks of at least {FEWEST} patients; "
                f"there {'is' if self.patients() == 1 else 'are'} {self.patients()}."
            )


def check(
    folder: Path,
    *,
    classes: int | None = None,
    channels: int = 1,
    sheet: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read every scan and mask below `folder`, one at a time, and say what each is good for.

    `classes` is how many the study has, the background included, `channels` how many sequences lie in each file.
    `sheet` is where a picture of every case that can be read goes (PNG).

    Raises: InputError when there is no such folder, or the sheet is no PNG or cannot be written.
    """
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise InputError("the sheet is a PNG", where=sheet, fix=f"name it {sheet.with_suffix('.png').name}")
    tell = progress or (lambda what, done, total: None)
    found = inspect(folder, classes=classes, channels=channels, progress=lambda done, total: tell("files", done, total))
    rows, problems, seen = list[Row](), list(found.problems), set[bytes]()
    pictures = list[Picture]()
    for done, case in enumerate(found.cases, 1):
        row, picture = _read(case, problems, seen, pictured=sheet is not None and len(pictures) < MOST)
        rows.append(row)
        pictures += [picture] if picture else []
        tell("cases", done, len(found.cases))
    problems += _nothing(folder, found)
    if sheet is not None and pictures:
        write_sheet(sheet, pictures, title=str(folder), cases=len(found.cases))
    return Report(folder, tuple(rows), tuple(problems))


def _read(case: Case, problems: list[Problem], seen: set[bytes], *, pictured: bool) -> tuple[Row, Picture | None]:
    """One case as a row and a picture; what cannot be read, or was `seen` before, is added to `problems`."""
    use: Use = "no"
    image = mask = None
    try:
        image = case.read_image()
        if (content := hashlib.sha256(image.array.data).digest()) in seen:
            raise InputError(COPY, where=case.files[0], fix="leave one copy in the folder")
        seen.add(content)
        use = "answering only"
        mask = case.read_mask()
        use = "training" if mask is not None else use
    except InputError as error:
        problems.append(Problem.of(error, case.files[0]))
    grid = case.image.grid
    (d, h, w), (z, y, x) = grid.array.shape, grid.spacing_mm
    row = Row(
        case=case.id,
        patient=case.patient,
        modality=case.modality,
        size=(w, h, d),
        spacing_mm=(x, y, z),
        volumes_ml=volumes_ml(mask) if mask else {},
        use=use,
        image=case.image.files[0],
        oriented=case.oriented,
        mask=case.mask.files[0] if case.mask else None,
    )
    return row, picture_of(case.id, use, image, mask) if pictured and image is not None else None


def volumes_ml(mask: Volume) -> dict[int, float]:
    """Class value → millilitres, the background left out."""
    voxel_ml = abs(float(np.linalg.det(mask.affine[:3, :3]))) / 1000
    values, counts = np.unique(mask.array, return_counts=True)
    return {int(value): float(n) * voxel_ml for value, n in zip(values, counts, strict=True) if value}


def _nothing(folder: Path, found: Inspection) -> list[Problem]:
    if found.cases or found.problems:
        return []
    return [Problem("no scan was found", folder, "name the folder that holds DICOM series or NIfTI files")]
