"""Phase `collect`: shard after shard, every teacher's answers about the student's slices into the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from imaging.errors import InputError
from server.exchange import Ask
from study.answers import Answers
from study.cards import read_card, trained, trained_on
from study.cohorts import assignment, lead_slices, make_shard, open_store, shards
from study.plan import Study
from study.run import Run
from study.wire import LacksError, Shard


class Collection:
    """Asks each teacher for the shards that the store misses of round `number`, and writes each reply as it comes.

    Memory: a shard is cut from the memory-mapped slices when it is sent and again when its reply is checked, so the
    coordinator holds `federation.shards_in_flight` replies a site at most, however many slices there are. A site that
    has answered about slices before has kept them: only their numbers are sent, until it says that it lacks them.
    """

    name = "collect"

    def __init__(self, study: Study, run: Run, number: int) -> None:
        self.study, self.run, self.number, self.window = study, run, number, study.federation.shards_in_flight
        names = [site.name for site in study.sites]
        if on := [site for site in names if trained_on(study, run.folder, site, number)]:
            what = f"{', '.join(on)} trained on since, and cannot be asked as it was in round {number} any more"
            raise InputError(what, where=run.folder, fix=f"ask in a later round than {number}")
        teachers = [site for site in names if trained(study, run.folder, site, number)]
        if len(teachers) < (least := study.federation.min_sites):
            what = f"{len(teachers)} teachers have trained long enough, `federation.min_sites` asks for {least}"
            raise InputError(what, where=run.folder, fix="run the phase `train` first")
        self.cache = lead_slices(study, run.folder)
        self.shards = shards(study, self.cache)
        self.store = open_store(study, run.folder, self.cache, number)
        slices = sum(map(len, self.shards))
        seen = study.preprocess.pictures
        run.event("asking", shards=len(self.shards), slices=slices, sites=teachers, round=number, pictures=seen)
        stores = [open_store(study, run.folder, self.cache, earlier) for earlier in range(number + 1)]
        self.kept = {(site, index) for site in teachers for store in stores for index in store.shards(site, ["logits"])}
        self.sites = [site for site in teachers if self._missing(site)]
        self.settled = len(teachers) - len(self.sites)

    def asks(self, site: str) -> Iterator[Ask]:
        for index, wants in self._missing(site).items():
            body = partial(self._pack, site, index, wants)
            yield Ask("answer", f"shard {index}", body, partial(self.take, site, index, wants))

    def take(self, site: str, index: int, wants: Sequence[str], body: bytes) -> None:
        """Put a shard's answers into the store; InputError when they are not what was asked, or another teacher's."""
        try:
            answers = Answers.unpack(body, self._shard(site, index, wants))
        except LacksError:
            self.kept.discard((site, self._first(index)))
            raise
        card = read_card(self.run.folder, site)
        if card is None or answers.header.site != site or answers.header.weights_hash != card.weights_hash:
            what = f"answers of another teacher than the one whose card is in teachers/{site}.json"
            raise InputError(what, fix=f"delete that card and store/{site}, and run the phases again")
        self.store.write(answers, card, wants)
        self.kept.add((site, self._first(index)))
        withheld = [name for name in wants if name not in answers.contents]
        if withheld and index == 0:  # known now, or after hours, from the first scheme that needs it
            self.run.event("withheld", site=site, contents=withheld)
        counts = {"shard": index, "of": len(self.shards), "round": self.number, "bytes": len(body)}
        self.run.event("collected", site=site, **counts)

    def _missing(self, site: str) -> dict[int, tuple[str, ...]]:
        return self.store.missing(site, len(self.shards), self.study.answers.contents)

    def _shard(self, site: str, index: int, wants: Sequence[str]) -> Shard:
        return make_shard(assignment(self.study, site), self.cache, index, self.shards[index], wants)

    def _pack(self, site: str, index: int, wants: Sequence[str]) -> bytes:
        return self._shard(site, index, wants).pack(named=(site, self._first(index)) in self.kept)

    def _first(self, index: int) -> int:
        """The shard about the slices themselves whose variations, or they themselves, this one is about."""
        return index % (len(self.shards) // (self.study.answers.views + 1))
