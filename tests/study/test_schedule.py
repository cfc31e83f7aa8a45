from __future__ import annotations

import pytest
import torch

from study.schedule import Schedule, constant_lr, cyclic_lr, schedule


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


def test_halving_is_torchs_steps_of_a_sixth() -> None:
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.01)
    steps = torch.optim.lr_scheduler.StepLR(optimiser, 10, gamma=0.5)
    rate = schedule("halving", peak=0.01, steps=60)
    for step in range(60):
        assert rate(step) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        steps.step()


@pytest.mark.parametrize(("name", "warm_up"), [("cosine", 10), ("one-cycle", 150)])
def test_rates_rise_for_their_share_of_the_steps_and_fall_to_nearly_nothing(name: Schedule, warm_up: int) -> None:
    rate = schedule(name, peak=0.01, steps=600)
    rates = [rate(step) for step in range(600)]
    assert rates.index(max(rates)) == warm_up
    assert max(rates) == 0.01
    assert rates[: warm_up + 1] == sorted(rates[: warm_up + 1])
    assert rates[warm_up:] == sorted(rates[warm_up:], reverse=True)
    assert rates[-1] < 2e-5
