"""`[averaging]` of study.toml: the same student without teachers, trained on the hospitals' own masks."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from study.table import Plan

Strategy = Literal["fedavg", "fedprox", "fedadam"]
LOCAL, POOLED = "local", "pooled"
BASELINES = (*get_args(Strategy), LOCAL, POOLED)
"""What their students are called."""
CACHE = "answers-cache"
"""Folder among the students of a run: what jobs have unpacked."""
TAKEN = (*BASELINES, CACHE)
"""Folders among the students of a run that no student of `[distill]` can have."""


class Averaging(Plan):
    """`[averaging]`: baselines that train the student on the sites' own scans, with the settings of `[distill]`."""

    strategies: list[Strategy] = Field(default_factory=list)
    """Students whose weights are averaged over the sites: `fedavg`, `fedprox`, `fedadam`. A site takes part where its
    policy says `average = true`, since the weights of a network trained on its patients leave it."""
    rounds: int = Field(20, ge=1, le=100_000)
    """How often the sites' weights are averaged; `local` is asked for in as many parts."""
    steps: int | None = Field(None, ge=1, le=10_000_000)
    """Optimiser steps of every site over all rounds; `distill.steps` when absent, so that all students work alike."""
    mu: float = Field(0.01, ge=0)
    """`fedprox`: weight of the pull towards the round's common weights (Li et al. 2020, Eq. 2)."""
    server_lr: float = Field(0.01, gt=0)
    """`fedadam`: eta, the step of the common weights (Reddi et al. 2021, Algorithm 2)."""
    local: bool = False
    """Also a student for every site, trained there alone; its weights stay there. A simulation evaluates it at every
    site."""
    pooled: bool = False
    """Also a student trained on all sites' training patients together, the upper bound; in a simulation only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.strategies)) < len(self.strategies):
            raise ValueError(f"`strategies` names one twice: {', '.join(self.strategies)}")
        return self

    @property
    def labels(self) -> list[str]:
        """What the sites are asked to train: what stays with them first, then the strategies."""
        return [*([LOCAL] if self.local else []), *self.strategies]

    def done(self, rounds: int, steps: int) -> int:
        """Of `steps` steps in all, those that are done after so many rounds."""
        return steps * rounds // self.rounds
