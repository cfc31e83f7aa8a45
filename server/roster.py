"""Who takes part in a phase: waited for, heard, left out; and whether enough are left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from imaging.errors import InputError
from server.line import Line
from study.run import Run

LOOK_S = 0.5
Clock = Callable[[], float]


class Roster:
    """The sites of a phase, each with the time it was last heard.

    `min_sites`: left_out raises InputError, and so ends the phase, when fewer remain. `settled`: sites that count
    towards the quorum although the phase has nothing more to ask of them.
    """

    def __init__(
        self,
        run: Run,
        phase: str,
        sites: Sequence[str],
        *,
        number: int = 0,
        min_sites: int,
        settled: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.run, self.phase, self.min_sites, self.settled, self.clock = run, phase, min_sites, settled, clock
        self.number = number
        now = clock()
        self.heard = dict.fromkeys(sites, now)

    @property
    def sites(self) -> list[str]:
        """Those still taking part."""
        return list(self.heard)

    def gather(self, line: Line, *, patience_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until every site's node is connected; who is not by then is left out."""
        missing, deadline = set(self.sites), self.clock() + patience_s
        while True:
            for site in sorted(missing & line.present()):
                missing.remove(site)
                self.hear(site)
                self.run.event("site-joined", site=site)
            if not missing or self.clock() >= deadline:
                break
            sleep(LOOK_S)
        for site in self.sites:
            self.hear(site)  # nobody was asked anything while the last one was waited for
        for site in sorted(missing):
            cause = f"its node did not connect within {patience_s:.0f} s"
            self.leave_out(site, cause, "start the node there, with the key that was registered for this site")

    def hear(self, site: str) -> None:
        """A site has spoken."""
        if site in self.heard:
            self.heard[site] = self.clock()

    def silent_s(self, site: str) -> float:
        """Seconds since it was last heard."""
        return self.clock() - self.heard[site]

    def leave_out(self, site: str, cause: str, remedy: str) -> None:
        """Go on without a site; InputError when too few are left."""
        del self.heard[site]
        where = {"phase": self.phase, "round": self.number}
        self.run.event("site-left-out", **where, site=site, cause=cause, remedy=remedy)
        left = len(self.heard) + self.settled
        if left < self.min_sites:
            what = f"{cause}; without it {left} sites are left, `federation.min_sites` asks for {self.min_sites}"
            raise InputError(what, where=f"site {site}", fix=remedy)
