from __future__ import annotations

import copy
import math
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.testing import assert_close

from imaging.errors import InputError
from study.checkpoint import keep_of, smoothed
from study.training import Progress, TrainPlan, Validation, constant_lr, evaluating, fit, load_best, weights_hash


def content(folder: Path) -> dict[str, Any]:
    """A checkpoint without what a clock wrote into it."""
    found: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    del found["seal"], found["state"]["seconds"]  # the seal covers the seconds
    for validation in found["state"]["history"]:
        validation.pop("seconds")
    return found


def same(a: Any, b: Any) -> bool:
    """Equal, tensors bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def test_one_seed_gives_one_network_and_another_seed_another(small: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        learner = small.Learner()
        fit(learner, small.Batches(), small.plan(7, seed=seed), tmp_path / name, validate=learner.agreement)
    assert same(content(tmp_path / "a"), content(tmp_path / "b"))
    assert weights_hash(load_best(tmp_path / "a")) == weights_hash(load_best(tmp_path / "b"))
    assert not same(content(tmp_path / "a")["weights"], content(tmp_path / "c")["weights"]), "dropout ignores the seed"


def test_a_part_with_a_rate_of_its_own_keeps_it_throughout(small: ModuleType, tmp_path: Path) -> None:
    begin, ends = weights_hash(small.Learner().network[4].state_dict()), {}
    for name, own in (("none", {}), ("still", {"4": 0.0}), ("quick", {"4": 0.02})):
        learner = small.Learner()
        for until in (4, 9):  # the second from a checkpoint
            plan = replace(small.plan(9), own_rates=own)
            fit(learner, small.Batches(), plan, tmp_path / name, validate=None, until=until)
        ends[name] = [weights_hash(learner.network[layer].state_dict()) for layer in (0, 4)]
    assert ends["still"][1] == begin
    assert len({begin, *(last for _, last in ends.values())}) == 3
    assert len({first for first, _ in ends.values()}) == 3, "the rest learned beside it"


def test_training_in_parts_is_training_at_once(small: ModuleType, tmp_path: Path) -> None:
    whole = small.train(tmp_path / "whole")
    for until in (0, 1, 9, 9, 20, 5, 43):
        part = small.train(tmp_path / "parts", until=until)
    assert same(content(tmp_path / "whole"), content(tmp_path / "parts"))
    assert part.finished
    assert (part.step, part.best_step, part.best_dice) == (whole.step, whole.best_step, whole.best_dice)
    assert [(v.step, v.terms, v.dice) for v in part.history] == [(v.step, v.terms, v.dice) for v in whole.history]


def test_a_finished_training_is_given_back_not_repeated(small: ModuleType, tmp_path: Path) -> None:
    first = small.train(tmp_path)
    before = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    assert small.train(tmp_path) == first
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before


def test_it_is_adam_under_torchs_cyclic_schedule(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(network.state_dict())
    batches = [torch.rand(5, 3) for _ in range(11)]
    learner = SimpleNamespace(network=network, loss=lambda batch: {"square": network(batch).square().sum()})
    lr = [0.001, 0.004, 0.007, 0.01, 0.007, 0.004, 0.001, 0.004, 0.007, 0.01, 0.007]
    fit(learner, batches, TrainPlan(11, lr.__getitem__, seed=0, every=11), tmp_path, validate=None)
    adam = torch.optim.Adam(twin.parameters(), betas=(0.9, 0.999))
    cycle = torch.optim.lr_scheduler.CyclicLR(adam, 0.001, 0.01, step_size_up=3, cycle_momentum=False)
    for batch in batches:
        adam.zero_grad()
        twin(batch).square().sum().backward()
        adam.step()
        cycle.step()
    assert_close(network.state_dict(), twin.state_dict())


def test_weights_decay_as_in_torchs_adamw(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, batches = nn.Linear(3, 2), [torch.rand(5, 3) for _ in range(4)]
    twin = copy.deepcopy(network)
    learner = SimpleNamespace(network=network, loss=lambda batch: {"square": network(batch).square().sum()})
    fit(learner, batches, TrainPlan(4, constant_lr(0.1), seed=0, every=4, weight_decay=0.3), tmp_path, validate=None)
    adam = torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.3)
    for batch in batches:
        adam.zero_grad()
        twin(batch).square().sum().backward()
        adam.step()
    assert_close(network.state_dict(), twin.state_dict())


def test_gradients_are_clipped_together(tmp_path: Path) -> None:
    norms: list[float] = []
    network = nn.Linear(3, 2)
    learner = SimpleNamespace(network=network, loss=lambda batch: {"square": 100 * network(batch).square().sum()})
    plan = TrainPlan(1, constant_lr(0.1), seed=0, every=1, clip_norm=0.5)
    step = torch.optim.Adam.step

    def note(adam: torch.optim.Adam, *args: Any, **options: Any) -> Any:
        grads = [weight.grad.flatten() for group in adam.param_groups for weight in group["params"]]
        norms.append(float(torch.cat(grads).norm()))
        return step(adam, *args, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.optim.Adam, "step", note)
        fit(learner, [torch.ones(5, 3)], plan, tmp_path, validate=None)
    assert norms == [pytest.approx(0.5, rel=1e-4)]


def test_the_scale_of_16_bit_gradients_survives_an_interruption(small: ModuleType, tmp_path: Path) -> None:
    def mixed() -> Fabric:
        scaler = torch.amp.GradScaler("cpu", growth_interval=3)
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    for name, stops in (("whole", (10,)), ("parts", (4, 10))):
        for until in stops:
            fit(
                small.Learner(),
                small.Batches(),
                small.plan(),
                tmp_path / name,
                validate=None,
                until=until,
                fabric=mixed(),
            )
    assert same(content(tmp_path / "whole"), content(tmp_path / "parts"))
    assert content(tmp_path / "whole")["scaling"]["scale"] != mixed().strategy.precision.state_dict()["scale"]


def test_weights_of_the_best_validation_are_kept(small: ModuleType, tmp_path: Path) -> None:
    learner, hashes, dice = small.Learner(), [], iter([0.5, 0.9, 0.6, 0.4, 0.5])

    def validate() -> float:
        assert not learner.network.training
        assert not torch.is_grad_enabled()
        hashes.append(weights_hash(learner.network.state_dict()))
        return next(dice)

    outcome = fit(learner, small.Batches(), small.plan(14), tmp_path, validate=validate)
    assert learner.network.training
    assert [validation.step for validation in outcome.history] == [3, 6, 9, 12, 14], "the last step is validated too"
    assert (outcome.best_step, outcome.best_dice, outcome.step) == (6, 0.9, 14), "five validations are not smoothed"
    assert weights_hash(load_best(tmp_path)) == hashes[1]
    assert weights_hash(learner.network.state_dict()) == hashes[-1]


def test_patience_ends_it(small: ModuleType, tmp_path: Path) -> None:
    dice = iter([0.5, 0.6, 0.1, 0.1, 0.9])
    learner = small.Learner()
    plan = small.plan(43, patience=2)
    outcome = fit(learner, small.Batches(), plan, tmp_path, validate=lambda: next(dice))
    assert outcome.finished
    assert (outcome.step, outcome.best_step) == (12, 6)
    again = fit(small.Learner(), small.Batches(), plan, tmp_path, validate=lambda: next(dice))
    assert again == outcome
    assert next(dice) == 0.9, "a finished training was validated again"


RISE = [0.085 * epoch for epoch in range(11)]
"""From 0 to 0.85 in ten epochs."""


@pytest.mark.parametrize(
    ("after", "ended", "kept"),
    [
        ([0.85] * 90, 30, range(10, 31)),  # flat: the smoothed Dice would rise for ever
        ([0.85 - 0.01 * epoch for epoch in range(1, 91)], 30, range(8, 23)),  # falling
        ([0.85 + 0.15 * (epoch == 12) for epoch in range(1, 91)], 42, range(10, 43)),  # one lucky epoch
    ],
)
def test_patience_counts_from_the_highest_dice_and_a_lucky_one_is_not_kept(
    small: ModuleType, tmp_path: Path, after: list[float], ended: int, kept: range
) -> None:
    steps, dice = 101 * small.EVERY, iter([*RISE, *after])
    outcome = fit(
        small.Learner(), small.Batches(), small.plan(steps, patience=20), tmp_path, validate=lambda: next(dice)
    )
    epochs = [validation.step // small.EVERY - 1 for validation in outcome.history]
    assert epochs[-1] == ended
    best = outcome.best_step // small.EVERY - 1
    assert best in kept


@pytest.mark.parametrize(("validations", "keep"), [(1, 0.0), (12, 0.0), (20, 0.4), (120, 0.9), (1000, 0.9)])
def test_a_short_training_is_hardly_smoothed(validations: int, keep: float) -> None:
    assert keep_of(validations) == pytest.approx(keep)
    assert smoothed([0.0, 1.0], keep=keep)[1] == pytest.approx(1 / (1 + keep))
    assert smoothed([0.5] * 9, keep=keep) == pytest.approx([0.5] * 9)


def test_without_validation_the_last_weights_are_the_best(small: ModuleType, tmp_path: Path) -> None:
    learner = small.Learner()
    outcome = fit(learner, small.Batches(), small.plan(8), tmp_path, validate=None)
    assert (outcome.best_step, outcome.best_dice) == (8, None)
    assert [validation.dice for validation in outcome.history] == [None, None, None]
    assert same(load_best(tmp_path), learner.network.state_dict())


def test_progress_tells_every_step_and_history_the_means(small: ModuleType, tmp_path: Path) -> None:
    seen: list[Progress] = []
    learner = small.Learner()
    outcome = fit(learner, small.Batches(), small.plan(7), tmp_path, validate=None, progress=seen.append)
    assert [(p.step, p.steps, p.validation is not None) for p in seen] == [(n, 7, n in {3, 6, 7}) for n in range(1, 8)]
    for name in ("fit", "size"):
        means = [sum(p.terms[name] for p in seen[a:b]) / (b - a) for a, b in ((0, 3), (3, 6), (6, 7))]
        assert [validation.terms[name] for validation in outcome.history] == pytest.approx(means)
    assert outcome.history[0].loss == pytest.approx(sum(outcome.history[0].terms.values()))


def test_a_loss_that_is_not_finite_is_named_and_the_last_checkpoint_stays(small: ModuleType, tmp_path: Path) -> None:
    learner = small.Learner()
    seen: list[Progress] = []
    fit(learner, small.Batches(), small.plan(43), tmp_path, validate=None, until=6)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def loss(batch: Any) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = small.Learner.loss(learner, batch)
        return terms | {"kl": torch.tensor(math.inf if len(seen) == 2 else 1.0)}

    learner.loss = loss
    with pytest.raises(InputError, match="loss term `kl` is inf at step 8; lower `lr`"):
        fit(learner, small.Batches(), small.plan(43), tmp_path, validate=None, progress=seen.append)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_batch_that_cannot_be_made_is_told_and_no_thread_stays(small: ModuleType, tmp_path: Path) -> None:
    class Broken:
        def __getitem__(self, step: int) -> Any:
            if step == 4:
                raise InputError("the cache is damaged")
            return small.Batches()[step]

    seen: list[Progress] = []
    with pytest.raises(InputError, match="the cache is damaged"):
        fit(small.Learner(), Broken(), small.plan(9), tmp_path, validate=None, progress=seen.append)
    assert len(seen) == 4, "the batches before it are still worth a step"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_torchs_settings_are_as_before(small: ModuleType, tmp_path: Path) -> None:
    states = []
    assert not torch.are_deterministic_algorithms_enabled()
    learner = small.Learner()

    def note(_: Progress) -> None:
        states.append(torch.are_deterministic_algorithms_enabled())

    fit(learner, small.Batches(), small.plan(1), tmp_path, validate=None, progress=note)
    assert states == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_evaluating_restores_the_mode_it_found() -> None:
    network = nn.Sequential(nn.Dropout(0.5)).eval()
    with evaluating(network):
        pass
    assert not network.training
    network.train()
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert network.training


def test_a_validation_of_nan_is_a_programmers_fault(small: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="undefined cases"):
        fit(small.Learner(), small.Batches(), small.plan(3), tmp_path, validate=lambda: math.nan)


def test_weights_without_gradient_stay(small: ModuleType, tmp_path: Path) -> None:
    learner = small.Learner()
    frozen = learner.network[0].weight.requires_grad_(False).clone()
    plan = replace(small.plan(3), lr=constant_lr(0.1))
    fit(learner, small.Batches(), plan, tmp_path, validate=None)
    assert torch.equal(learner.network[0].weight, frozen)


def test_validation_holds_its_loss() -> None:
    assert Validation(3, {"a": 0.25, "b": 0.5}, None, 1.0).loss == 0.75
