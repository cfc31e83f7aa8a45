"""Learning rates as functions of the step: no state to save."""

from __future__ import annotations

from collections.abc import Callable


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
