"""A whole study on one machine: hospitals, coordinator and central trainer as processes, resumable anywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from rich.console import Console

from imaging.errors import InputError
from imaging.label_file import check_names
from server.averaging import Averaging, state_path
from server.evaluate import Evaluation
from server.federation import Federation
from server.hospitals import Cohort, cohorts, cores, preceptor, write_site
from server.processes import Command, Processes
from server.screen import Screen
from server.train import Training
from server.watch import Watch
from server.words import PARTS
from study.averaging_table import LOCAL, POOLED
from study.cards import card_path, finished, trained, trained_on
from study.cohorts import lead_slices, open_store, shards
from study.plan import FolderSource, Study
from study.run import Run, create_or_resume, differing


def simulate(study: Study, folder: Path, console: Console, *, until: str = "report") -> None:
    """Play the study in `folder` up to and including the part `until`; its last part writes `folder`/report.html.

    Each part does only what is not done yet. However this ends, no process that it started goes on.
    Raises: InputError saying what ended it; KeyboardInterrupt.
    """
    check(study, sourced=until != "scans")
    with Processes(folder / "processes.json") as processes:  # the lock first: nobody changes another's study
        run = create_or_resume(folder, study)
        with Watch() as watch, Screen(study, folder, console, watch=watch) as screen:
            try:
                Simulation(study, run, processes, screen).play(until)
            except InputError:
                console.print(f"Stopped. What is done is kept in {folder}; with that mended, the same command goes on.")
                raise


def check(study: Study, *, sourced: bool = True) -> None:
    """InputError, before anything is started, where scans are missing, or their own file names labels otherwise.

    `sourced`: every site must name some.
    """
    sources = {f"site {site.name}": site.source for site in study.sites}
    if none := [who for who, source in sources.items() if source is None and sourced]:
        fix = 'add `source = { folder = "…" }` or `source = { phantom = "…", cases = 12 }` there'
        raise InputError(f"{none[0]} has no `source`, and a simulation has no hospital to ask", fix=fix)
    sources |= {f"the student's source {n}": source for n, source in enumerate(study.student.sources, 1)}
    for who, source in sources.items():
        if isinstance(source, FolderSource) and not source.folder.is_dir():
            raise InputError(f"the scans of {who} are missing", where=source.folder, fix="mend it in the study")
        if isinstance(source, FolderSource):
            check_names(source.folder, study.task.classes, study.task.channels)


class Simulation:
    """The parts of a study, one method each, in the order of `words.PARTS`."""

    def __init__(self, study: Study, run: Run, processes: Processes, screen: Screen) -> None:
        self.study, self.run, self.processes, self.screen = study, run, processes, screen

    def play(self, until: str) -> None:
        names = list(PARTS)
        parts = names[: names.index(until) + 1]
        for part in parts[: names.index("train")]:
            getattr(self, part)()
        for number in self._rounds(until):
            for part in parts[names.index("train") : names.index("distill") + 1]:
                getattr(self, part)(number)
        for part in parts[names.index("distill") + 1 :]:
            getattr(self, part)()

    def _rounds(self, until: str) -> list[int]:
        """The rounds of answers to be played: a teacher cannot be asked any more as it was before it trained on."""
        there = [number for number in range(self.study.answers.rounds) if not self._over(number)]
        return there[:1] if until in ("train", "collect") else there

    def _over(self, number: int) -> bool:
        return any(trained_on(self.study, self.run.folder, site.name, number) for site in self.study.sites)

    def scans(self) -> None:
        """What is made is written, and whatever is wrong with anybody's scans is said before hours of training."""
        missing = [cohort for cohort in cohorts(self.study, self.run.folder) if not cohort.written()]
        if missing:
            jobs = {cohort.command(self._log("scans")): cohort for cohort in missing}
            with self._timed("scans"):
                self.processes.complete(
                    list(jobs), tick=self.screen.tick, at_once=cores(), done=lambda job: self._written(jobs[job])
                )
        self.slices = lead_slices(self.study, self.run.folder, progress=lambda done, cases: self.screen.tick())

    def _written(self, cohort: Cohort) -> None:
        cohort.mark()
        self.run.event("cohort-written", owner=cohort.owner, profile=cohort.source.made, cases=cohort.cases_there())

    def train(self, number: int) -> None:
        if self.study.answers.contents and Training(self.study, self.run, number).sites:
            self.federation.conduct("train", number)

    def collect(self, number: int) -> None:
        if self._answers_missing(number):
            self.federation.conduct("collect", number)

    def distill(self, number: int) -> None:
        """The students as far as the answers of that round take them."""
        students = [*self.study.distill.students, *self._pooled()]
        if others := {label: keys for label in students if (keys := self._otherwise(label))}:
            folders = " and ".join(str(self.run.folder / "distill" / label) for label in others)
            names = ", ".join(dict.fromkeys(key for found in others.values() for key in found))
            what = f"students of other settings are there: {', '.join(others)}; differing: {names}"
            fix = f"restore the settings, give the new ones a name in `[distill.variants]`, or remove {folders}"
            raise InputError(what, fix=fix)
        failed: dict[str, InputError] = {}
        if missing := [label for label in students if not self._distilled(label)]:
            with self._timed("distill"):
                for labels in self._in_order(missing):
                    self._complete({self._job(label): label for label in labels}, failed)
        last = number == self.study.answers.rounds - 1
        if waiting := [label for label in students if last and label not in failed and not self._distilled(label)]:
            log = self._log(f"distill-{waiting[0]}")
            raise InputError(f"{waiting[0]} was not trained to its end", where=log, fix="see what its log says last")

    def _in_order(self, labels: list[str]) -> Iterator[list[str]]:
        """Those that may be trained side by side, after those whose weights they begin with."""
        while labels:
            later = [label for label in labels if self.study.distill.of(label).start in labels]
            yield [label for label in labels if label not in later]
            labels = later

    def _complete(self, jobs: dict[Command, str], failed: dict[str, InputError]) -> None:
        """Train these students; one that fails is told of and noted in `failed`, and costs the others nothing.

        Raises: InputError where the one that is shipped fails, when the others are done.
        """

        def note(job: Command, error: InputError) -> None:
            failed[jobs[job]] = error
            self.run.event("student-failed", label=jobs[job], cause=error.what, remedy=error.fix)

        at_once = max(1, cores() // self.study.distill.threads)
        self.processes.complete(list(jobs), tick=self.screen.tick, at_once=at_once, failed=note)
        if self.study.distill.scheme in failed:
            raise failed[self.study.distill.scheme]

    def average(self) -> None:
        if Averaging(self.study, self.run).labels:
            self.federation.conduct("average", self.study.answers.rounds - 1)

    def evaluate(self) -> None:
        if Evaluation(self.study, self.run).sites:
            self.federation.conduct("evaluate", self.study.answers.rounds - 1)

    def cross(self) -> None:
        """Every teacher, and every student of one site alone, at every site: a simulation can read all of them."""
        table, cards = self.run.folder / "cross.json", [card_path(self.run.folder, site) for site in self._teachers()]
        if not cards:
            return
        alone = self._alone()
        learned = [*cards, *([state_path(self.run.folder, LOCAL)] if alone else [])]
        if table.exists() and table.stat().st_mtime >= max(path.stat().st_mtime for path in learned):
            return
        sites = {card.stem: str(self.run.folder / "hospitals" / card.stem / "site.toml") for card in cards}
        chosen = [word for site in sites.values() for word in ("--site", site, "--teacher", site)]
        chosen += [word for site in alone if site in sites for word in ("--local", sites[site])]
        with self._timed("cross"):
            words = ["evaluate", str(self.run.folder), "--out", str(table), *chosen]
            self._preceptor("evaluating the teachers", *words)

    def report(self) -> None:
        self._preceptor("writing the report", "report", str(self.run.folder))

    @cached_property
    def federation(self) -> Federation:
        """Started when a phase first needs it; it then stays up, idle while the student is distilled."""
        federation = Federation(self.study, self.run, self.processes, self.screen.tick)
        for hospital in federation.hospitals:
            write_site(self.study, self.run.folder, hospital.site, hospital.socket)
        self.screen.watch.sockets = {hospital.site: hospital.socket for hospital in federation.hospitals}
        federation.start()
        return federation

    def _teachers(self) -> list[str]:
        return [site.name for site in self.study.sites if finished(self.run.folder, site.name)]

    def _alone(self) -> list[str]:
        """Sites whose own student has been trained to its end."""
        rounds = self.study.averaging.rounds
        ends = [e for e in self.run.events("averaged") if e["label"] == LOCAL and e["round"] == rounds]
        return sorted({event["site"] for event in ends}) if self.study.averaging.local else []

    def _answers_missing(self, number: int) -> bool:
        """Whether a teacher who can be asked has shards to answer."""
        store = open_store(self.study, self.run.folder, self.slices, number)
        asked, names = len(shards(self.study, self.slices)), [site.name for site in self.study.sites]
        able = [site for site in names if trained(self.study, self.run.folder, site, number)]
        return any(store.missing(site, asked, self.study.answers.contents) for site in able)

    def _distilled(self, label: str) -> bool:
        """Whether the student is there, and no answer came after it."""
        card = self._card(label)
        newest = max((event["time"] for event in self.run.events("collected")), default=0.0)
        return card.exists() and card.stat().st_mtime >= newest

    def _otherwise(self, label: str) -> list[str]:
        """Keys of `[distill]` that the student which is there was trained with other values of."""
        try:
            had = json.loads(self._card(label).read_bytes())["settings"]
        except (OSError, ValueError, LookupError, TypeError):  # none, or damaged: `preceptor distill` says it better
            return []
        asked = self.study.distill.of(label).model_dump(mode="json")
        return [key for key in differing(had, asked) if key.partition(".")[0] not in {"scheme", "compare", "variants"}]

    def _card(self, label: str) -> Path:
        return self.run.folder / "distill" / label / "student.json"

    def _pooled(self) -> list[str]:
        return [POOLED] if self.study.averaging.pooled else []

    def _job(self, label: str) -> Command:
        kind = "--variant" if label in self.study.distill.variants else "--scheme"
        words = ["distill", str(self.run.folder), kind, label]
        if label == POOLED:
            words = ["pool", str(self.run.folder)]
        return preceptor(f"distilling {label}", *words, log=self._log(f"distill-{label}"))

    def _preceptor(self, name: str, *words: str) -> None:
        self.processes.complete([preceptor(name, *words, log=self._log(words[0]))], tick=self.screen.tick)

    def _log(self, name: str) -> Path:
        return self.run.folder / "logs" / f"{name}.log"

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """The events that a phase writes of itself, for a part that is none."""
        started, fault = time.monotonic(), None
        self.run.event("phase-started", phase=part)
        try:
            yield
        except InputError as error:
            fault = {"cause": error.what, "remedy": error.fix}
            raise
        except Exception as error:
            fault = {"cause": f"{type(error).__name__}: {error}", "remedy": "this is a fault of Preceptor's: report it"}
            raise
        except BaseException:
            fault = {"cause": "it was stopped", "remedy": "run the same command again to go on"}
            raise
        finally:
            self.run.event("phase-ended", phase=part, seconds=round(time.monotonic() - started, 2), fault=fault)
