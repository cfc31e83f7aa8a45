"""Every random draw has an address, such as (seed, "augment", step): nothing depends on what was drawn before it."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def derived(seed: int, *address: str | int) -> int:
    """A number in [0, 2**63) for that address, the same on every machine and Python."""
    digest = hashlib.sha256(json.dumps([seed, *address]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *address: str | int) -> np.random.Generator:
    """NumPy's generator for that address, fresh and the caller's own."""
    return np.random.default_rng(derived(seed, *address))
