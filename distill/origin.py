"""What a student's weights depend on, kept beside its checkpoint as `origin.json`."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from imaging.atomic import write_text
from imaging.errors import InputError

ORIGIN = "origin.json"
log = logging.getLogger("distill")


class Origin(BaseModel):
    """Settings, and what was learned from; a training that is taken up again must have the same of both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study_hash: str
    scheme: str
    seed: int
    slices: str
    """Digest of the training and validation slices."""
    answers: dict[str, dict[str, str]]
    """Site -> shard -> checksum, of the first round."""
    later: list[dict[str, dict[str, str]]] = []
    """The same of every further round that has been collected; more may come while the student is trained."""
    views: int = 0
    """How many views of each slice were learned from; 0 without teachers too."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    record: bool = False
    """Whether the teachers' record on the outlined slices is heard."""
    begun: str = ""
    """Hash of the weights of another student that it began with."""

    def settle(self, folder: Path) -> None:
        """Make `folder` this training's. One of the same settings from other slices or answers is put aside, where
        one such is kept; one whose answers are the same as far as they went goes on.

        Raises: InputError when the folder holds a training of other settings.
        """
        former = read_origin(folder)
        if former == self:
            return
        begun = former is not None and former == self.model_copy(update={"later": self.later[: len(former.later)]})
        if former is not None and self == former.model_copy(update={"later": former.later[: len(self.later)]}):
            what = (
                f"has learned from {len(former.later) + 1} rounds of answers, and {len(self.later) + 1} are there whole"
            )
            raise InputError(what, where=folder, fix="go on collecting the others first")
        if former is not None and not begun:
            settings = {"study_hash", "scheme", "seed", "device"}
            if former.model_dump(include=settings) != self.model_dump(include=settings):
                fix = f"choose another `--label`, or remove {folder}"
                raise InputError("holds a student of other settings", where=folder, fix=fix)
            aside = folder.with_name(f".{folder.name}.former")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)  # at once: half a folder would be refused for ever after a kill
            log.warning(
                "%s: its slices, answers or their weighing changed, so it is trained anew; what was there is in %s now",
                folder, aside,
            )  # fmt: skip
        write_text(folder / ORIGIN, self.model_dump_json(indent=1) + "\n")

    def digest(self) -> str:
        """What a training begins with, as text that does not depend on the order of keys."""
        # trainings of before there was a record or a beginning go on
        without = {"later", *(key for key in ("record", "begun") if not getattr(self, key))}
        return json.dumps(self.model_dump(mode="json", exclude=without), sort_keys=True)


def read_origin(folder: Path) -> Origin | None:
    """What the student in a job's folder depends on; None where that is not told."""
    path = folder / ORIGIN
    if not path.exists():
        return None
    try:
        return Origin.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError("cannot be read", where=path, fix=f"remove {folder} to distil again") from error
