"""A distilled student's card, `student.json`: what it is, what it learned from, how its training went."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imaging.atomic import write_text
from imaging.errors import InputError
from study.distill_tables import Distill
from study.plan import Study

CARD = "student.json"
WEIGHTS = "student.safetensors"


class Check(BaseModel):
    """One validation: steps done, Dice, and the mean of every loss term since the one before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    dice: float | None
    terms: dict[str, float]


class Leaflet(BaseModel):
    """What whoever uses a student must know of it; it goes with the student also where the card does not."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    label: str
    """Its folder's name, and what the report calls it."""
    study: str
    classes: list[str]
    """Class names; the network has so many outputs."""
    channels: list[str] = Field(default_factory=list)
    """Names of the sequences that it reads together; none where it reads one."""
    modality: str = ""
    """DICOM's code of the scans it was made for."""
    preprocess: dict[str, Any]
    """How a scan is prepared for it: `[preprocess]` of the study."""
    pixel_mm: float | None = None
    """How wide the pixels were that it learned from: the study's spacing, or the median of the student's scans."""
    slice_mm: float | None = None
    """The same of the distance between slices, of a student of volumes."""
    weights_hash: str


class StudentCard(Leaflet):
    """All that is needed to build the network again, and to tell how it came about; weights lie beside it."""

    scheme: str
    seed: int
    model: str
    options: dict[str, str | int]
    parameters: int
    steps: int
    best_step: int
    """Whose weights these are: the best in validation, or the last where there was nothing to validate on."""
    val_dice: float | None
    """Their validation Dice: mean over cases and foreground classes, on the network's grid."""
    history: list[Check]
    seconds: float
    """Spent training and validating, over all parts of a training that was interrupted."""
    teachers: list[str]
    """Sites whose answers it learned from."""
    settings: Distill
    made_on: dict[str, str] = Field(default_factory=dict)
    """Versions, processor, device, processes and threads of the process that finished it."""

    @classmethod
    def of(cls, study: Study, **training: Any) -> Self:
        """The card of a study's student: what the study says of it, beside how this training went."""
        plan, own, apart = study.preprocess, training.pop("pixel_mm", None), training.pop("slice_mm", None)
        spacing = plan.spacing_mm
        return cls(
            study=study.name,
            pixel_mm=max(spacing[-2:]) if spacing else own,
            slice_mm=(spacing[0] if spacing and len(spacing) == 3 else apart) if plan.patch else None,
            model=study.student.model,
            options=study.student.options,
            classes=study.task.classes,
            channels=study.task.channels,
            modality=study.task.modality,
            preprocess=study.preprocess.model_dump(mode="json"),
            settings=study.distill,
            **training,
        )


def read_card(folder: Path) -> StudentCard | None:
    """The card in a job's folder; None where training has not finished. InputError when it cannot be read."""
    path = folder / CARD
    if not path.exists():
        return None
    try:
        return StudentCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        what = "is no card of a student, or of another release"
        raise InputError(what, where=path, fix=f"remove {folder} to distil it again") from error


def write_card(folder: Path, card: StudentCard) -> None:
    """Put the card into the job's folder; the last file written, so that with it the job is finished."""
    write_text(folder / CARD, card.model_dump_json(indent=2) + "\n")
