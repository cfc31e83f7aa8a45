"""Phase `train`: every site trains its teacher, round after round, at its own pace."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from imaging.errors import InputError
from models.contents import ONNX
from server.exchange import Ask
from study.cards import finished, read_card, trained, write_card
from study.cohorts import assignment
from study.plan import Study
from study.run import Run
from study.wire import Card, TeachRequest, pack, unpack


class Training:
    """Asks for epochs 1 to k, k+1 to 2k, … of `teacher.round_epochs` k until a site's card says that it has finished,
    or has trained for as long as round `number` of answers wants it to.

    No site waits for another. The next round is under way while one is trained (`window` 2), because a node that finds
    no message sleeps for 3 s (Flower 1.41); a round asked of a teacher who has finished costs nothing.
    """

    name = "train"
    window = 2

    def __init__(self, study: Study, run: Run, number: int) -> None:
        self.study, self.run, self.number = study, run, number
        self.sites = [site.name for site in study.sites if not trained(study, run.folder, site.name, number)]
        self.settled = len(study.sites) - len(self.sites)

    def asks(self, site: str) -> Iterator[Ask]:
        plan, target = self.study.teacher_of(site), self.study.epochs_of(site, self.number)
        card = read_card(self.run.folder, site)
        until = card.epochs if card else 0
        while until < target and not finished(self.run.folder, site):
            until = min((until // plan.round_epochs + 1) * plan.round_epochs, target)
            request = TeachRequest(assignment=assignment(self.study, site), until_epoch=until)
            yield Ask("teach", f"training to epoch {until}", partial(pack, request), partial(self.take, site, until))

    def take(self, site: str, until: int, body: bytes) -> None:
        """Keep the card of a round; InputError when it is another's, or of other work than was asked."""
        card, _ = unpack(body, Card)
        if card.site != site:
            raise InputError(
                f"the card of {card.site} came from {site}", fix="give each site its own key and site.toml"
            )
        if card.fingerprint != (expected := self.study.preprocess.fingerprint()):
            raise InputError(f"trained on slices prepared as {card.fingerprint}, the study prepares them as {expected}")
        asked = self.study.teacher_of(site)
        if card.model != ONNX and (card.model, card.options) != (asked.model, asked.options):
            raise InputError(f"its teacher is {card.model} {card.options}, asked was {asked.model} {asked.options}")
        if card.epochs < until and not card.finished:
            raise InputError(f"trained to epoch {card.epochs}, asked was epoch {until}")
        earlier = read_card(self.run.folder, site)
        if earlier is None or (card.finished, card.epochs) > (earlier.finished, earlier.epochs):
            write_card(self.run.folder, card)  # else a message sent again was answered late
            self.run.event("taught", site=site, epoch=card.epochs, dice=card.dice, finished=card.finished)
