"""Settings of torch under which the same machine gives the same numbers again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def use_threads(threads: int) -> None:
    """CPU threads of this process: sums are the same again, bit for bit, only at the same number."""
    torch.set_num_threads(threads)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Until exit: the deterministic algorithms of torch, wherever there is one. They cost a step nothing measurable.

    Where there is none torch warns; but for max-unpooling, which is exact all the same, since no two places collide.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not reproducible without it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    # Not undone on exit: restoring filters is not safe while other threads run, as they do in a site's service.
    warnings.filterwarnings("ignore", message=".*max_unpool.*does not have a deterministic implementation.*")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
