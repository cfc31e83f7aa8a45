"""What a simulation puts on disk before anybody starts: cohorts that it makes, and each hospital's site.toml."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from imaging.atomic import write_text
from imaging.errors import InputError
from models.contents import CONTENTS, DEFAULT
from server.deployment import environment
from server.processes import Command
from study.cohorts import lead_folder
from study.draws import derived
from study.plan import FolderSource, PhantomSource, Source, Study

THREADS = 4
"""At most, for a site's training: more of them hardly help a small network."""


@dataclass(frozen=True)
class Cohort:
    """Scans that one source makes, written once; `note` beside their folder says that all of them are there."""

    owner: str
    source: Source
    folder: Path
    seed: int

    @property
    def note(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def content(self) -> dict[str, Any]:
        return {**self.source.model_dump(mode="json", exclude={"masks"}), "seed": self.seed}

    def written(self) -> bool:
        """Whether these very scans are there."""
        return self.note.exists() and json.loads(self.note.read_text(encoding="utf-8")) == self.content

    def mark(self) -> None:
        """Say so, once they are."""
        write_text(self.note, json.dumps(self.content, indent=1))

    def cases_there(self) -> int:
        """How many cases are whole by now."""
        return len([*self.folder.glob("case-*"), *self.folder.glob("patient-*")])

    def command(self, log: Path) -> Command:
        """Write what is missing of them."""
        source = self.source
        if isinstance(source, PhantomSource):
            words = ["phantom", source.phantom, str(self.folder), "--format", source.format]
            words += ["--cases", str(source.cases)]
        else:
            words = ["rescan", str(source.folder), str(self.folder), "--patients", *map(str, source.patients or ())]
            for key, value in source.scanner or ():
                words += [f"--{key.replace('_', '-')}", str(value)]
        return preceptor(f"writing {self.owner}'s scans", *words, "--seed", str(self.seed), log=log)


def cohorts(study: Study, run_folder: Path) -> list[Cohort]:
    """Every cohort that a study makes, the hospitals' and the study lead's, no two alike."""
    return list(_cohorts(study, run_folder))


def _cohorts(study: Study, run_folder: Path) -> Iterator[Cohort]:
    for site in study.sites:
        if site.source is not None and site.source.made:
            seed = derived(study.seed, "phantoms", "site", site.name) % 1_000_000
            yield Cohort(site.name, site.source, scans_folder(run_folder, site.name), seed)
    for index, source in enumerate(study.student.sources):
        if source.made:
            seed = derived(study.seed, "phantoms", "lead", index) % 1_000_000
            yield Cohort("the study lead", source, lead_folder(index, source, run_folder), seed)


def scans_folder(run_folder: Path, site: str) -> Path:
    return run_folder / "hospitals" / site / "scans"


def write_site(study: Study, run_folder: Path, site: str, socket: Path) -> None:
    """The site.toml of a simulated hospital, whose `[policy]`, `teacher` and `keep_mib` stay what somebody made them.

    Raises: InputError when the study does not say where its scans come from.
    """
    source = study.site(site).source
    if source is None:
        fix = f'add `source = {{ folder = "…" }}` or `source = {{ phantom = "…", cases = 12 }}` to site {site}'
        what = f"site {site} has no `source`, and a simulation has no hospital to ask"
        raise InputError(what, where=f"study `{study.name}`", fix=fix)
    folder = run_folder / "hospitals" / site
    former = _former(folder / "site.toml")
    content: dict[str, Any] = {
        "name": site,
        "data": str(source.folder)
        if isinstance(source, FolderSource) and not source.made
        else scans_folder(run_folder, site).name,
        "workspace": "workspace",  # relative, as far as can be: a copied run folder is a run of its own
        "socket": str(socket),
        # as many as before, for a teacher is the same again only then; else a fair share of the cores
        "threads": former.get("threads") or max(1, min(THREADS, cores() // len(study.sites))),
    }
    if source.masks is not None:
        content["masks"] = source.masks
    if source.chosen is not None:
        content["patients"] = list(source.chosen)
    content |= {key: former[key] for key in ("teacher", "keep_mib") if key in former}
    policy = dict(former.get("policy", {"downloads": True} if study.teacher_of(site).options.get("pretrained") else {}))
    if "release" not in policy and not set(study.answers.contents) <= set(DEFAULT):
        policy["release"] = list(CONTENTS)  # all that may be asked later: from now on the list stays what it is
    if study.averaging.strategies:
        policy.setdefault("average", True)
    if policy:
        content["policy"] = policy
    write_text(folder / "site.toml", tomli_w.dumps(content))


def _former(site_toml: Path) -> dict[str, Any]:
    """What stands in a site.toml by now; nothing where there is no such file."""
    try:
        return tomllib.loads(site_toml.read_text(encoding="utf-8")) if site_toml.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not TOML: {error}", where=site_toml, fix="mend it, or remove it") from error


def preceptor(name: str, *words: str, log: Path) -> Command:
    """One of our own commands as a job of this simulation."""
    return Command(name, [sys.executable, "-m", "preceptor", *words], log, environment(log.parent / "flower"))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
