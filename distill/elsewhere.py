"""A run folder for a training from a study file, and from answers that lie in another run's folder."""

from __future__ import annotations

from pathlib import Path

from imaging.errors import InputError
from imaging.lock import Lock
from study.plan import Study
from study.run import create_or_resume, make_folder

STORE, LEAD = "store", "lead"


def begin(study: Study, answers: Path | None, folder: Path) -> None:
    """Make `folder` the study's run folder, which learns from `answers`: a run folder, or the store in one.

    None where the study asks nobody (`answers.contents` is empty): then it learns from masks alone.

    The store is linked to, not copied; so are the student's scans, where they were made. Everything else of the run
    that collected them is left alone.

    Raises: InputError where there are no answers, or `folder` belongs to another study or other answers.
    """
    made = any(source.made for source in study.student.sources)
    if answers is None and made:
        fix = f"`preceptor simulate STUDY.toml --out {folder} --until scans` writes them; then name that folder instead"
        raise InputError("the scans made for the student are in no run folder yet", where=folder, fix=fix)
    links = _links(find_store(answers), made) if answers else {}
    make_folder(folder)
    with Lock(folder / ".answers.lock"):  # several processes may begin at once
        for name, target in links.items():
            _check(folder / name, target)  # before study.json is written anew
        create_or_resume(folder, study)
        for name, target in links.items():
            path = folder / name
            if not _there(path):
                path.symlink_to(target, target_is_directory=True)


def _links(store: Path, made: bool) -> dict[str, Path]:
    """What of the run that collected these answers a training needs."""
    lead = store.parent / LEAD
    if made and not lead.is_dir():
        fix = f"`preceptor simulate STUDY.toml --out {store.parent} --until scans` writes those of that run's study"
        raise InputError("the scans made for the student are not beside these answers", where=store.parent, fix=fix)
    return {STORE: store, LEAD: lead} if made else {STORE: store}


def find_store(answers: Path) -> Path:
    """The answer store that is meant; InputError where there is none."""
    for folder in (answers / STORE, answers):
        if any(folder.glob("*/round-*/*/zarr.json")):
            return folder.resolve()
    fix = "name a run folder whose answers have been collected, or the `store` in one"
    raise InputError("holds no answers", where=answers, fix=fix)


def _check(path: Path, target: Path) -> None:
    """InputError where `path` is there, and is not `target`."""
    if _there(path) and path.resolve() != target:
        fix = "choose another folder with `--out`"
        raise InputError(f"has another `{path.name}` than {target}", where=path.parent, fix=fix)


def _there(path: Path) -> bool:
    """Whether anything is at `path`, a link to nothing too."""
    return path.is_symlink() or path.exists()
