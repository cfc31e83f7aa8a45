"""A run folder for a training from a study file and answers that lie elsewhere, such as in another run's folder."""

from __future__ import annotations

from pathlib import Path

from imaging.errors import InputError
from imaging.lock import Lock
from study.plan import Study
from study.run import create_or_resume, make_folder

STORE, LEAD = "store", "lead"


def begin(study: Study, answers: Path, folder: Path) -> None:
    """Make `folder` the study's run folder, which learns from `answers`: a run folder, or the store in one.

    The store is linked to, not copied; so are the student's scans, where they were made. Everything else of the run
    that collected them is left alone.

    Raises: InputError where there are no answers, or `folder` belongs to another study or other answers.
    """
    store = find_store(answers)
    make_folder(folder)
    with Lock(folder / ".answers.lock"):  # several processes may begin at once
        links = {STORE: store}
        if any(source.made for source in study.student.sources):
            links[LEAD] = store.parent / LEAD
        if LEAD in links and not links[LEAD].is_dir():
            fix = f"`preceptor simulate STUDY.toml --out {store.parent} --until scans` writes those of that run's study"
            raise InputError("the scans made for the student are not beside these answers", where=store.parent, fix=fix)
        for name, target in links.items():
            _check(folder / name, target)  # before study.json is written anew
        create_or_resume(folder, study)
        for name, target in links.items():
            path = folder / name
            if not _there(path):
                path.symlink_to(target, target_is_directory=True)


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
