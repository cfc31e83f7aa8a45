"""What a network weighs and costs, counted on torch's meta device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from models.network import Network
from models.taps import tap


@dataclass(frozen=True)
class Cost:
    """Of one slice or patch; `taps` holds the shape (c, h, w), or (c, d, h, w), of each tap's features."""

    parameters: int
    flops: int
    taps: dict[str, tuple[int, ...]]


def cost(net: Network, size: tuple[int, ...] = (384, 384)) -> Cost:
    """Parameters of a network and FLOPs of one image of that size; the network is left as it was.

    FLOPs are counted as Table 2 of AMTKD does, after ptflops: two a multiply-accumulate, four an element of a batch
    norm, two an element of an activation, of what is pooled and of what interpolation gives. In networks of volumes an
    instance, group or layer norm counts as a batch norm, and attention as the matrix products that it is; its softmax,
    sums of features and the scan of SegMamba, which is made of sums and products of elements, count nothing.
    """
    state = {name: value.to("meta") for name, value in net.state_dict().items()}
    image = torch.empty(1, net.in_channels, *size, device="meta")
    counter, training = FlopCounterMode(display=False, custom_mapping=ELEMENTWISE), net.training
    with torch.no_grad(), counter, tap(net) as features:
        functional_call(net.eval(), state, (image,))
    net.train(training)
    return Cost(
        parameters=sum(weight.numel() for weight in net.parameters()),
        flops=counter.get_total_flops(),
        taps={name: tuple(feature.shape[1:]) for name, feature in features.items()},
    )


def each_input(flops: int) -> Callable[..., int]:
    """So many FLOPs an element of the first argument."""
    return lambda shape, *_args, **_options: flops * prod(shape)


def each_output(flops: int) -> Callable[..., int]:
    """So many FLOPs an element of the result."""
    return lambda *_args, out_shape, **_options: flops * prod(out_shape)


ACTIVATIONS = (
    "relu",
    "relu_",
    "_prelu_kernel",
    "hardtanh",
    "hardtanh_",
    "silu",
    "silu_",
    "hardswish",
    "hardswish_",
    "gelu",
    "leaky_relu",
    "leaky_relu_",
    "elu",
    "elu_",
    "softplus",
)
NORMS = ("native_batch_norm", "native_group_norm", "native_layer_norm")
POOLS = ("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean")
ELEMENTWISE: dict[Any, Callable[..., int]] = {
    **{getattr(torch.ops.aten, name): each_input(4) for name in NORMS},
    torch.ops.aten.upsample_bilinear2d: each_output(2),
    **{getattr(torch.ops.aten, name): each_input(2) for name in (*ACTIVATIONS, *POOLS)},
}
"""What torch's own counter, which knows convolutions and matrix products, leaves out."""
