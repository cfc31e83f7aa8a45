"""Learning rates as functions of the step: no state to save."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

Schedule = Literal["one-cycle", "cosine", "halving", "constant"]


def cyclic_lr(step: int, lr_min: float, lr_max: float, half_cycle: int) -> float:
    """Triangular cyclic learning rate: `lr_min` at step 0, `lr_max` first at step `half_cycle`, and back.

    Source: Smith 2017; AMTKD, section 4.3 (1e-6, 0.01, 2000). The same as torch's `CyclicLR(mode="triangular",
    cycle_momentum=False)` stepped once a batch.
    """
    place = (step % (2 * half_cycle)) / half_cycle
    return lr_min + (lr_max - lr_min) * (1 - abs(1 - place))


def constant_lr(lr: float) -> Callable[[int], float]:
    """The same learning rate at every step."""
    return lambda step: lr


def one_cycle_lr(step: int, *, peak: float, steps: int, warm_up: float = 0.25) -> float:
    """The learning rate of a step: up to `peak` in a straight line, then down to nearly 0 along half a cosine.

    Source: Smith 2018, in the form of torch's OneCycleLR. Departs: AMTKD's CyclicLR first peaks at step 2000, which is
    more than a small site's whole training.
    """
    climb = max(1.0, warm_up * steps)
    if step < climb:
        return peak * (step + 1) / (climb + 1)
    return peak * (0.001 + 0.999 * (1 + math.cos(math.pi * (step - climb) / max(1.0, steps - climb))) / 2)


def halving_lr(step: int, *, peak: float, steps: int, parts: int = 6) -> float:
    """Half as much after each sixth of the steps. Source: DSD's code, StepLR of a sixth of its epochs, gamma 0.5."""
    return peak * 0.5 ** (step // max(1, steps // parts))


def schedule(name: Schedule, *, peak: float, steps: int) -> Callable[[int], float]:
    """The learning rate of each step, by what a study calls it; `cosine` warms up for 1 step in 60 (MOD's authors)."""
    if name == "constant":
        return constant_lr(peak)
    if name == "halving":
        return partial(halving_lr, peak=peak, steps=steps)
    return partial(one_cycle_lr, peak=peak, steps=steps, warm_up=0.25 if name == "one-cycle" else 1 / 60)
