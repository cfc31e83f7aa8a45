"""Which sites' answers a job can learn from, and why not where it cannot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.schemes.base import Needs
from distill.sources import StoredAnswers
from distill.unpacked import Unpacked, unpacked
from imaging.errors import InputError
from imaging.slices import SliceCache
from models.contents import ONNX
from study.averaging_table import CACHE
from study.cohorts import open_store, shards
from study.plan import Study
from study.run import left_out, read_study_of
from study.store import AnswerStore, DamagedError

ANEW = "that round is over, and its teachers have trained on: start anew in another folder with `--out`"
COPY = f"put a copy of its files back, or learn without that site (`distill.without`); else {ANEW}"


def open_rounds(study: Study, run_folder: Path, slices: SliceCache, needs: Needs) -> tuple[StoredAnswers, ...]:
    """What the sites answered about the study's training slices and their views, as far as a scheme needs it, unpacked.

    The first round, and each further one that has been collected so far; who was left out of a further one is heard
    there as it answered before.
    Raises: InputError when no or too few sites have answered, a site's answers are not complete although it was not
    left out, one is damaged, or no site gave what the scheme needs (by its policy, or having logits alone).
    """
    reader = _Reader(study, run_folder, slices, needs)
    found = [StoredAnswers(reader.unpacked(reader.sites(), 0))]
    for number in range(1, study.answers.rounds):
        if (sites := reader.renewed(found[0].sites, number)) is None:
            break
        found.append(found[-1].renewed(reader.unpacked(sites, number)))
    return tuple(found)


@dataclass(frozen=True)
class _Reader:
    """What one job reads of the run's store, round by round."""

    study: Study
    run_folder: Path
    slices: SliceCache
    needs: Needs

    def store(self, number: int) -> AnswerStore:
        store = open_store(self.study, self.run_folder, self.slices, number)
        check_fit(self.study, store, number)
        return store

    @property
    def n_shards(self) -> int:
        return len(shards(self.study, self.slices))

    def over(self, number: int) -> bool:
        """Whether a later round has begun: nobody is asked in this one any more."""
        later = range(number + 1, self.study.answers.rounds)
        return any(open_store(self.study, self.run_folder, self.slices, n).sites() for n in later)

    def sites(self) -> list[str]:
        """Whom the job learns from: those who answered in the first round, or the one of them that it hears."""
        study, needs, store = self.study, self.needs, self.store(0)
        sites = answering(study, store, self.n_shards, needs.contents, over=self.over(0))
        sites = [site for site in sites if site not in study.distill.without]
        if not sites:
            what = f"without {' and '.join(study.distill.without)} no site is left that has answered"
            raise InputError(what, where=store.folder, fix="hear one of them")
        if needs.teachers == "one":
            giving = [site for site in sites if not set(needs.contents) & set(store.withheld(site))] or sites
            whole = [site for site in giving if not store.missing(site, self.n_shards, needs.contents)]
            sites = [single_teacher(study, store, whole or giving)]  # not one who was left out after a few shards
        for content in needs.contents:
            _check_given(store, sites, content)
        return sites

    def renewed(self, sites: Sequence[str], number: int) -> list[str] | None:
        """Which of these sites have answered all of a further round; None while it is still to be collected."""
        store = self.store(number)
        if self.over(number):
            _check_whole(store, sites, self.needs.contents)
        whole = [site for site in sites if not store.missing(site, self.n_shards, self.needs.contents)]
        awaited = set(sites) - set(whole) - set(left_out(store.folder.resolve().parent, number))
        if not self.over(number) and (awaited or not store.sites()):
            return None
        for site in whole:
            self._check_same(site, store)
        return whole

    def _check_same(self, site: str, store: AnswerStore) -> None:
        """InputError where a site gives other contents than in the first round: a term would come or go on the way."""
        first = open_store(self.study, self.run_folder, self.slices, 0)
        then, now = (sorted(set(self.needs.contents) & set(one.withheld(site))) for one in (first, store))
        if then != now:
            what = f"site {site} withholds {' and '.join(now) or 'nothing'} in {store.round_name}, before it was "
            fix = "let it keep to one policy in all rounds: start anew in another folder with `--out`"
            raise InputError(what + (" and ".join(then) or "nothing"), where=store.folder, fix=fix)

    def unpacked(self, sites: Sequence[str], number: int) -> dict[str, dict[str, Unpacked]]:
        """All that these sites answered in a round, in the job's cache."""
        study, slices, store = self.study, self.slices, self.store(number)
        folder = self.run_folder / "distill" / CACHE / store.round_name
        asked = shards(study, slices)
        try:
            return {
                site: unpacked(store, site, self.needs.contents, folder / site, asked, size=slices.plan.shape)
                for site in sites
            }
        except DamagedError as error:
            if not self.over(number):
                raise
            raise InputError(error.what, where=error.where, fix=COPY) from error


def _check_given(store: AnswerStore, sites: Sequence[str], content: str) -> None:
    """InputError where all these sites withhold a content, or have teachers that cannot tell it."""
    withholding = [site for site in sites if content in store.withheld(site)]
    if len(withholding) < len(sites):
        return
    fix = "learn by a scheme that does without it (`preceptor schemes`), or set the weight of what needs it to 0"
    if able := [site for site in withholding if store.card(site).model != ONNX]:
        gone = ", ".join(str(store.folder / site / store.round_name / content) for site in able)
        fix += f", or ask a site to allow it, remove {gone}, and {collect(store)}"
    raise InputError(f"no site released {content}, which the scheme needs", where=store.folder, fix=fix)


def _check_whole(store: AnswerStore, sites: Sequence[str], contents: Sequence[str]) -> None:
    """InputError where a shard was found damaged in a round that is over: nobody can be asked for it again."""
    for site in sites:
        for content in contents:
            if bad := store.damaged(site, content):
                what = f"{content} of shard {bad[0]} of site {site} is damaged"
                path = store.folder / site / store.round_name / content
                raise InputError(what, where=path, fix=COPY)


def collect(store: AnswerStore) -> str:
    """The remedy where answers are missing: what asks for them."""
    run = store.folder.resolve().parent
    return (
        f"collect: `preceptor simulate STUDY.toml --out {run} --until collect` asks for what is missing, "
        f"`preceptor answer STUDY.toml --out {run} --teacher SITE=FILE` where the teachers lie here"
    )


def check_fit(study: Study, store: AnswerStore, number: int) -> None:
    """InputError unless what each site answered is of the study's classes, on slices prepared as it prepares them, and
    by a teacher that had trained as long as that round asks for; and views look as the study would have them.
    """
    if study.answers.views and store.sites():
        then = read_study_of(store.folder.resolve().parent)
        if (then.seed, then.augment) != (study.seed, study.augment):
            what = "the sites answered about views by another seed or `[augment]` than the study's"
            raise InputError(what, where=store.folder, fix="restore both, or learn without views: `answers.views = 0`")
    for site in [site.name for site in study.sites if site.name in store.sites()]:
        fix = "restore the study's settings, or collect anew into another folder (`preceptor simulate STUDY --out`)"
        for content in store.contents(site):
            notes = store.notes(site, content)
            theirs, ours = notes.card.fingerprint, study.preprocess.fingerprint()
            if theirs != ours:
                what = f"site {site} answered about slices prepared otherwise ({theirs}, the study: {ours})"
                raise InputError(what, where=store.folder, fix=fix)
            if not notes.card.finished and notes.card.epochs < study.epochs_of(site, number):
                had, asked = notes.card.epochs, study.epochs_of(site, number)
                what = f"the teacher of site {site} answered after {had} epochs, the study asks after {asked}"
                several = "set `answers.rounds` as it was in the run that collected them"
                raise InputError(what, where=store.folder, fix=several)
            told = notes.arrays["logits"].shape[0] if "logits" in notes.arrays else study.classes
            if told != study.classes:
                what = f"the teacher of site {site} knows {told} classes, the study has {study.classes}"
                raise InputError(what, where=store.folder, fix=fix)


def answering(
    study: Study, store: AnswerStore, n_shards: int, contents: Sequence[str], *, over: bool = False
) -> list[str]:
    """Sites with answers, in the study's order: complete, or left out by the coordinator halfway.

    What a left-out site did not answer weighs nothing; once a round is `over`, so does what anybody did not answer.
    Raises: InputError, see `open_rounds`.
    """
    names = [site.name for site in study.sites]
    if over:
        _check_whole(store, [name for name in names if name not in study.distill.without], contents)
    absent = names if over else left_out(store.folder.resolve().parent, 0)  # of the run that collected
    if unasked := [content for content in contents if content not in study.answers.contents]:
        what = f"the sites were not asked for {' and '.join(unasked)}, which the scheme needs"
        fix = f"add {json.dumps(unasked)} to `answers.contents` in the study and to the sites' policies, and "
        raise InputError(what, where=store.folder, fix=fix + collect(store))
    missing = {site.name: store.missing(site.name, n_shards, contents) for site in study.sites}
    for site, lacking in missing.items():
        if lacking and site not in absent and site not in study.distill.without:
            done, first = n_shards - len(lacking), min(lacking)
            what = f"site {site} has answered {done} of {n_shards} shards; the first missing is {first}"
            what += f" ({', '.join(lacking[first])})" if set(lacking[first]) < set(contents) else ""
            raise InputError(what, where=store.folder, fix=collect(store))
    complete = sum(not lacking for lacking in missing.values())
    if complete < study.federation.min_sites:
        what = f"{complete} sites have answered all, `federation.min_sites` asks for {study.federation.min_sites}"
        raise InputError(what, where=store.folder, fix=ANEW if over else collect(store))
    return [site for site, lacking in missing.items() if len(lacking) < n_shards]


def single_teacher(study: Study, store: AnswerStore, sites: Sequence[str]) -> str:
    """The site that `distill.mono_teacher` names, or that whose teacher has the best validation Dice at home."""
    chosen = study.distill.mono_teacher
    if chosen is None:
        return max(sites, key=lambda site: store.card(site).dice)
    if chosen not in sites:
        what = f"`distill.mono_teacher` is {chosen}, which has not answered what the scheme needs"
        raise InputError(what, where=store.folder, fix=f"name one that has: {', '.join(sites)}")
    return chosen
