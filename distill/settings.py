"""`--set KEY=VALUE`: the study with other values of some keys, for one training."""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from imaging.errors import InputError

if TYPE_CHECKING:
    from study.plan import Study

OPEN = ("distill", "student")
"""Tables whose keys may be set; what the sites were asked depends on none of them but those below."""
SCHEME = "student.scheme"
"""Another name of `distill.scheme`."""
ASKED = {
    "distill.split": "`split` decides which slices the sites were asked about",
    "student.sources": "`sources` are the scans that the sites were asked about",
}


def changed(study: Study, settings: list[str]) -> Study:
    """The study with these values; a key without its table is of `[distill]`. InputError when one does not fit."""
    from pydantic import ValidationError  # noqa: PLC0415

    from study.plan import Study, faults  # noqa: PLC0415

    plan = study.model_dump(mode="json")
    for setting in settings:
        key, found, value = setting.partition("=")
        key = "scheme" if key == SCHEME else key
        path = key.split(".") if key.partition(".")[0] in OPEN else ["distill", *key.split(".")]
        place: Any = plan
        for table in path[:-1]:
            place = place.get(table) if isinstance(place, dict) else None
        if not found or not isinstance(place, dict):
            fix = "such as --set amtkd.alpha=0 or --set student.model=enet"
            raise InputError(f"`--set {setting}` is not KEY=VALUE of `[distill]` or `[student]`", fix=fix)
        if what := ASKED.get(".".join(path[:2])):
            raise InputError(what, fix="change it in the study, and simulate that into another folder")
        place[path[-1]] = _value(value)
    try:
        return Study.strictly(plan)
    except ValidationError as error:
        what = faults(error, file="the study", plan=Study)
        raise InputError(what, fix="`preceptor study` explains every key") from error


def _value(text: str) -> Any:
    """A value as in study.toml or as in JSON, or else a word as it stands."""
    for read in (json.loads, lambda words: tomllib.loads(f"value = {words}")["value"]):
        with suppress(ValueError):
            return read(text)
    return text
