"""The stages of a U-shaped network, as what learns from them sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

import models
from imaging.errors import InputError
from models.entry import Stage
from models.taps import unwrapped
from study.training import evaluating


def stages_of(network: nn.Module, wanted: Sequence[str], *, method: str) -> dict[str, Stage]:
    """Those of a network's stages that `method` reads, in its order.

    Raises: InputError for a network without them, naming those that have a U.
    """
    stages: Mapping[str, Stage] = getattr(unwrapped(network), "stages", {})
    if any(name not in stages for name in wanted):
        name = getattr(unwrapped(network), "name", type(network).__name__)
        having = [other for other in models.names() if models.spec(other).build.stages]
        fix = f"networks that have one: {', '.join(having)}" if having else "choose a U-shaped network"
        raise InputError(f"`{name}` has no U for {method} to attach to", fix=fix)
    return {name: stages[name] for name in wanted}


def read(network: nn.Module, stages: Mapping[str, Stage], images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A pass: logits (N, K, *size), and each stage's features (N, c, *grid) by its name; no hook stays."""
    paths = [stage.path for stage in stages.values()]
    with models.tap(network, paths) as found:
        logits = network(images)
    return logits, {name: found[stage.path] for name, stage in stages.items()}


def channels_of(
    network: nn.Module, stages: Mapping[str, Stage], *, size: Sequence[int], in_channels: int
) -> dict[str, int]:
    """Channels of each stage, from a pass at rest that leaves the network and torch's draws as they were.

    Raises: InputError for a size that the network does not take; ValueError where a stage has another stride.
    """
    if not stages:
        return {}
    weight = next(network.parameters())
    images = torch.zeros(1, in_channels, *size, device=weight.device, dtype=weight.dtype)
    with evaluating(network):
        _, features = read(network, stages, images)
    for name, stage in stages.items():
        grid = features[name].shape[2:]
        if [places * stage.stride for places in grid] != list(size):
            raise ValueError(f"stage {name} is {tuple(grid)} of {tuple(size)}, which is not 1/{stage.stride}")
    return {name: feature.shape[1] for name, feature in features.items()}
