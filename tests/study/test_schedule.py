from __future__ import annotations

import pytest
import torch

from study.schedule import constant_lr, cyclic_lr


@pytest.mark.parametrize(
    ("low", "high", "half"), [(1e-6, 0.01, 2000), (1e-6, 0.01, 7), (0.0, 0.1, 1), (0.002, 0.002, 3)]
)
def test_it_is_torchs_cyclic_schedule(low: float, high: float, half: int) -> None:
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    cycle = torch.optim.lr_scheduler.CyclicLR(optimiser, low, high, step_size_up=half, cycle_momentum=False)
    for step in range(min(5 * half + 3, 4100)):
        assert cyclic_lr(step, low, high, half) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9, abs=1e-15)
        optimiser.step()
        cycle.step()


def test_the_papers_peak_is_at_step_2000() -> None:
    rates = [cyclic_lr(step, 1e-6, 0.01, 2000) for step in range(4001)]
    assert rates[0] == rates[4000] == 1e-6
    assert rates.index(max(rates)) == 2000
    assert max(rates) == 0.01


def test_constant() -> None:
    assert {constant_lr(0.3)(step) for step in (0, 5, 10**6)} == {0.3}
