"""Whether a training can fit into this machine's memory: told before its first step, not after its first crash."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from imaging.errors import InputError
from models.memory import training_bytes, weights_beside
from models.network import Network
from models.taps import unwrapped

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may have."""


def check_memory(
    network: nn.Module, size: tuple[int, ...], batch: int, device: str = "cpu", beside: nn.Module | None = None
) -> None:
    """InputError where weights, and the network's activations in one step, need more memory than there is.

    `beside` is what trains the network, and holds it: a scheme or a learner, whose weights count too. What it computes
    is not foretold: `dsd` and `mod` need 1.1 to 1.9 times as much as is, most beside small networks (measured).
    """
    inner, there = unwrapped(network), memory_of(device)
    if not isinstance(inner, Network) or there is None:
        return
    rest = weights_beside(inner, beside) if beside is not None else 0
    needed = training_bytes(inner, size, batch) + rest
    if needed > there:
        step = f"a step of {batch} × {' × '.join(map(str, size))} through `{inner.name}`"
        what = f"{step} needs at least {_gib(needed)}, and there are {_gib(there)}"
        most = _largest(inner, size, batch, there - rest)
        fix = f"take a batch of {most} at most" if most else "choose a smaller `preprocess.patch`, or a lighter network"
        raise InputError(what, fix=fix)


def memory_of(device: str) -> int | None:
    """Bytes of the device, or that this process may have of the machine's; None where nobody says."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    except (OSError, StopIteration):
        return None
    limits = [Path(name).read_text(encoding="ascii").strip() for name in LIMITS if Path(name).is_file()]
    return min([total, *(int(limit) for limit in limits if limit.isdecimal())])


def _largest(network: Network, size: tuple[int, ...], batch: int, there: int) -> int:
    """The largest smaller batch that fits; 0 where none does."""
    for smaller in range(batch - 1, 1, -1):
        if training_bytes(network, size, smaller) <= there:
            return smaller
    return 0


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
