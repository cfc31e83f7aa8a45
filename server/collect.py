"""Phase `collect`: shard after shard, every teacher's answers about the student's slices into the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from imaging.errors import InputError
from server.exchange import Ask
from study.answers import Answers
from study.cards import finished, read_card
from study.cohorts import assignment, lead_slices, make_shard, open_store, shards
from study.plan import Study
from study.run import Run
from study.wire import Shard


class Collection:
    """Asks each finished teacher for the shards that the store misses, and writes each reply as it comes.

    Memory: a shard is cut from the memory-mapped slices when it is sent and again when its reply is checked, so the
    coordinator holds `federation.shards_in_flight` replies a site at most, however many slices there are.
    """

    name = "collect"

    def __init__(self, study: Study, run: Run) -> None:
        self.study, self.run, self.window = study, run, study.federation.shards_in_flight
        teachers = [site.name for site in study.sites if finished(run.folder, site.name)]
        if len(teachers) < study.federation.min_sites:
            what = (
                f"{len(teachers)} teachers have finished, `federation.min_sites` asks for {study.federation.min_sites}"
            )
            raise InputError(what, where=run.folder, fix="run the phase `train` first")
        self.cache = lead_slices(study, run.folder)
        self.shards = shards(study, self.cache)
        self.store = open_store(study, run.folder, self.cache)
        run.event("asking", shards=len(self.shards), slices=sum(map(len, self.shards)), sites=teachers)
        self.sites = [site for site in teachers if self._missing(site)]
        self.settled = len(teachers) - len(self.sites)

    def asks(self, site: str) -> Iterator[Ask]:
        for index, wants in self._missing(site).items():
            body = partial(self._pack, site, index, wants)
            yield Ask("answer", f"shard {index}", body, partial(self.take, site, index, wants))

    def take(self, site: str, index: int, wants: Sequence[str], body: bytes) -> None:
        """Put a shard's answers into the store; InputError when they are not what was asked, or another teacher's."""
        answers = Answers.unpack(body, self._shard(site, index, wants))
        card = read_card(self.run.folder, site)
        if card is None or answers.header.site != site or answers.header.weights_hash != card.weights_hash:
            what = f"answers of another teacher than the one whose card is in teachers/{site}.json"
            raise InputError(what, fix=f"delete that card and store/{site}, and run the phases again")
        self.store.write(answers, card, wants)
        withheld = [name for name in wants if name not in answers.contents]
        if withheld and index == 0:  # known now, or after hours, from the first scheme that needs it
            self.run.event("withheld", site=site, contents=withheld)
        self.run.event("collected", site=site, shard=index, of=len(self.shards), bytes=len(body))

    def _missing(self, site: str) -> dict[int, tuple[str, ...]]:
        return self.store.missing(site, len(self.shards), self.study.answers.contents)

    def _shard(self, site: str, index: int, wants: Sequence[str]) -> Shard:
        return make_shard(assignment(self.study, site), self.cache, index, self.shards[index], wants)

    def _pack(self, site: str, index: int, wants: Sequence[str]) -> bytes:
        return self._shard(site, index, wants).pack()
