"""The selective scan of Mamba (Gu and Dao 2024, COLM), in plain PyTorch, or fused where `mamba_ssm` is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 64
"""Tokens scanned at once; 128 is as quick, on one core with 512 states and 4,096 tokens."""


def selective_scan(u: Tensor, delta: Tensor, *, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """y_t = C_t · h_t + D u_t, where h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t starts from 0, each channel by itself.

    Shapes: u and delta Δ (N, channels, T); a (channels, n), negative; b and c (N, n, T); skip D (channels,); returns
    (N, channels, T). Needs three times the memory of the states h, N · channels · n · T; the fused kernel, which serves
    where it is installed and u on CUDA, keeps none of them.
    """
    fused = fused_scan() if u.is_cuda else None
    if fused:
        delta, b, c = (each.to(u.dtype) for each in (delta, b, c))  # it takes no two dtypes, as autocast would give it
        return fused(u, delta, a.float(), b, c, skip.float())
    decay = (delta[:, :, None] * a[:, :, None]).exp()
    entering = (delta * u)[:, :, None] * b[:, None]
    states: Tensor = LinearScan.apply(decay, entering.to(decay.dtype))
    return (states * c[:, None]).sum(2) + skip[:, None] * u


@cache
def fused_scan() -> Callable[..., Tensor] | None:
    """The CUDA kernel of Mamba's authors, or None where their package is not installed."""
    try:
        kernel: Callable[..., Tensor] = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    except ImportError:
        return None
    return kernel


class LinearScan(torch.autograd.Function):
    """`linear_scan` with its gradient, which is a scan from the end: only the decays and the states are kept for it."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, entering: Tensor) -> Tensor:
        states = linear_scan(decay, entering)
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        decay, states = ctx.saved_tensors
        later = F.pad(decay[..., 1:], (0, 1))
        entering = linear_scan(later.flip(-1), gradient.flip(-1)).flip(-1)
        return entering * F.pad(states[..., :-1], (1, 0)), entering


def linear_scan(decay: Tensor, entering: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + entering_t from h = 0, along the last axis; both (..., T), and so what is returned.

    Within a chunk in log₂ steps, from chunk to chunk one after the other. Nothing is divided by a product of decays,
    which underflows within tens of tokens.
    """
    if entering.is_meta:
        return torch.empty_like(entering)  # only its shape counts there, and chunk by chunk it would take seconds
    carry = torch.zeros_like(entering[..., :1])
    states = []
    for one, other in zip(torch.split(decay, CHUNK, -1), torch.split(entering, CHUNK, -1), strict=True):
        product, state = one.clone(), other.clone()
        reach = 1
        while reach < state.shape[-1]:
            state[..., reach:] += product[..., reach:] * state[..., :-reach]
            product[..., reach:] = product[..., reach:] * product[..., :-reach]
            reach *= 2
        states.append(state + product * carry)
        carry = states[-1][..., -1:]
    return torch.cat(states, -1)
