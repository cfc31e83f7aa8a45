from __future__ import annotations

import numpy as np

from study.draws import derived, generator


def test_draws_do_not_change_with_releases() -> None:
    assert derived(0) == 1999793380834467432
    assert derived(3, "augment", 17) == 5457922850630701556
    assert generator(3, "augment", 17).integers(1000) == 328


def test_every_address_draws_its_own() -> None:
    addresses = [(seed, name, step) for seed in range(5) for name in ("order", "augment") for step in range(50)]
    found = {derived(*address) for address in addresses} | {
        derived(1, "order"),
        derived(1),
        derived(1, "1"),
        derived(1, 1),
    }
    assert len(found) == len(addresses) + 4
    assert all(0 <= number < 2**63 for number in found)


def test_a_generator_is_the_callers_own() -> None:
    first, second = generator(1, "a"), generator(1, "a")
    first.random(5)
    assert np.array_equal(generator(1, "a").random(3), second.random(3))
