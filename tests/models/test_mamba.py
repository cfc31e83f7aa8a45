"""Mamba's scan against the recurrence as it is written, step by step, and the orders of its tokens."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers
from torch import Tensor
from torch.testing import assert_close

from models.mamba import Direction, TriMamba, across
from models.scan import CHUNK, LinearScan, fused_scan, linear_scan, selective_scan

N, CHANNELS, STATES = 2, 3, 5


def step_by_step(u: Tensor, delta: Tensor, *, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    h, y = torch.zeros(len(u), *a.shape, dtype=u.dtype), []
    for t in range(u.shape[-1]):
        h = (delta[:, :, t, None] * a).exp() * h + (delta[:, :, t] * u[:, :, t])[..., None] * b[:, None, :, t]
        y.append((h * c[:, None, :, t]).sum(2) + skip * u[:, :, t])
    return torch.stack(y, -1)


def inputs(tokens: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(tokens)
    shapes = {
        "u": (N, CHANNELS, tokens),
        "delta": (N, CHANNELS, tokens),
        "a": (CHANNELS, STATES),
        "b": (N, STATES, tokens),
        "c": (N, STATES, tokens),
        "skip": (CHANNELS,),
    }
    made = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    return {**made, "delta": made["delta"].exp() / 4, "a": -made["a"].exp()}


def test_the_worked_numbers() -> None:
    u, delta, b, c = (
        torch.tensor(values, dtype=torch.float64)[None, None]
        for values in ([1.0, 3, -1], [0.5, 1, 0.25], [1.0, 2, 0.5], [1.0, 1, 2])
    )
    a, skip = torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    h = linear_scan((-delta).exp(), delta * b * u)
    assert h.flatten().tolist() == pytest.approx([0.5, 6.183940, 4.691057], abs=1e-6)
    y = selective_scan(u, delta, a=a, b=b, c=c, skip=skip)
    assert y.flatten().tolist() == pytest.approx([1, 7.683940, 8.882114], abs=1e-6)


@given(tokens=integers(1, 3 * CHUNK))
@settings(max_examples=25)
def test_the_scan_is_the_recurrence(tokens: int) -> None:
    given_ = inputs(tokens)
    assert_close(selective_scan(**given_), step_by_step(**given_), rtol=1e-5, atol=1e-5)


def test_its_gradient_is_that_of_the_recurrence() -> None:
    given_ = {name: value.requires_grad_() for name, value in inputs(2 * CHUNK + 3, torch.float64).items()}
    weight = torch.randn(N, CHANNELS, 2 * CHUNK + 3, dtype=torch.float64)
    found, wanted = (
        torch.autograd.grad((scan(**given_) * weight).sum(), list(given_.values()))
        for scan in (selective_scan, step_by_step)
    )
    assert_close(found, wanted)
    decay, entering = (torch.rand(2, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(LinearScan.apply, (decay, entering))


def test_a_token_changes_nothing_before_it() -> None:
    given_ = inputs(CHUNK + 7)
    before = selective_scan(**given_)
    for t in (0, 5, CHUNK, CHUNK + 6):
        later = given_["u"].clone()
        later[..., t] += 1
        changed = (selective_scan(**{**given_, "u": later}) != before).any(0).any(0)
        assert not changed[:t].any()
        assert changed[t]
    direction = Direction(4, 1).eval()
    u, gate = torch.randn(1, 4, 11), torch.randn(1, 4, 11)
    later = u.clone()
    later[..., 6] += 1
    changed = (direction(later, gate) != direction(u, gate)).any(1)[0]
    assert changed.tolist() == [False] * 6 + [True] * 5


def test_decays_to_nothing_leave_no_nan() -> None:
    """A product of them underflows within a chunk; who divides by it has infinities."""
    decay = torch.full((1, 2 * CHUNK), 1e-30, requires_grad=True)
    states = LinearScan.apply(decay, torch.ones(1, 2 * CHUNK))
    assert_close(states, torch.ones(1, 2 * CHUNK))
    (gradient,) = torch.autograd.grad(states.sum(), decay)
    assert gradient.isfinite().all()


def test_the_order_across_slices_and_back() -> None:
    tokens = torch.arange(12).expand(2, 3, -1)
    ordered = across(tokens, 3)
    assert ordered[1, 2].tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert torch.equal(across(ordered, 12 // 3), tokens)


@pytest.mark.parametrize(("width", "parameters"), [(48, 31_392), (96, None), (8, None)])
def test_parameters_of_three_directions(width: int, parameters: int | None) -> None:
    inner, rank, states = 2 * width, -(-width // 16), 16
    expected = 6 * width**2 + 3 * inner * (4 + 1 + rank + 2 * states + rank + 1 + states + 1)
    assert parameters in (None, expected)
    assert sum(weight.numel() for weight in TriMamba(width).parameters()) == expected


def test_directions_are_summed_each_in_its_own_order() -> None:
    """Where two are silenced, what is left is the third's: of a change at one token it reaches what comes after."""
    torch.manual_seed(5)
    x = torch.randn(1, 12, 8)
    later = x.clone()
    later[:, 5] += 1
    after = {
        "forwards": {5, 6, 7, 8, 9, 10, 11},
        "backwards": {0, 1, 2, 3, 4, 5},
        "across": {2, 3, 5, 6, 7, 9, 10, 11},  # three slices of four: 5 stands fifth, after 0, 4, 8 and 1
    }
    for kept, reached in after.items():
        mamba = TriMamba(8).eval()
        for name in after.keys() - {kept}:
            getattr(mamba, name).register_forward_hook(lambda _module, _args, out: torch.zeros_like(out))
        changed = (mamba(later, 3) != mamba(x, 3)).any(2)[0]
        assert set(changed.nonzero().flatten().tolist()) == reached


def test_time_steps_start_between_a_thousandth_and_a_tenth() -> None:
    steps = torch.nn.functional.softplus(Direction(257, 3).delta.bias.detach())
    assert 1e-3 * 0.999 <= float(steps.min()) < 2e-3
    assert 5e-2 < float(steps.max()) <= 1e-1 * 1.001


def test_the_fused_kernel_is_found_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mamba_ssm.ops.selective_scan_interface"
    module = ModuleType(name)
    module.__dict__["selective_scan_fn"] = step_by_step
    for parent in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)
    fused_scan.cache_clear()
    try:
        assert fused_scan() is step_by_step
        monkeypatch.setitem(sys.modules, name, None)
        fused_scan.cache_clear()
        assert fused_scan() is None
    finally:
        fused_scan.cache_clear()
