"""Initial weights for what exists only in training, drawn beside the network's and not among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from study.draws import derived


@contextmanager
def own_draws(*address: str) -> Iterator[None]:
    """Within the block torch draws from a generator of its own, of torch's seed and `address`.

    What is drawn before and after the block, such as the network's own weights, is the same without it.
    """
    seed = derived(torch.initial_seed(), *address)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch's own function would reseed GPUs too
        yield
