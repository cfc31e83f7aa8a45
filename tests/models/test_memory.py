from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import models
from models.memory import OF_A_WEIGHT, training_bytes
from models.network import Network

SMALLEST: dict[str, dict[str, int]] = {
    "dynunet": {"width": 4},
    "unetr": {"width": 4, "hidden": 48},
    "swin-unetr": {"width": 12},
    "swin-unetr-v2": {"width": 12},
    "unetr++": {"width": 8},
    "segmamba": {"width": 8, "hidden": 16},
    "vit-autoencoder": {"patch": 4, "hidden": 48, "layers": 1},
}
"""Options of large networks, as small as they come."""


def kept_by(network: Network, images: Tensor) -> int:
    """Bytes that a real forward pass leaves for its backward pass, weights apart."""
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(images)
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    assert logits.requires_grad
    return sum(size for place, size in seen.items() if place not in weights)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [("dynunet", (32, 32, 32), {"width": 4}), ("unet", (96, 64), {"width": 8}), ("enet", (64, 64), {})],
)
def test_what_is_foretold_is_what_a_pass_keeps(name: str, size: tuple[int, ...], options: dict[str, int]) -> None:
    network = models.create(name, 1, 3, size=size, **options)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    weights = OF_A_WEIGHT * sum(weight.numel() for weight in network.parameters())
    foretold = training_bytes(network, size, 2)
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert foretold - weights == pytest.approx(kept_by(network, torch.randn(2, 1, *size)), rel=0.1)
    twice = training_bytes(network, size, 4)
    assert twice - weights == pytest.approx(2 * (foretold - weights), rel=0.01)


@pytest.mark.parametrize("name", models.names())
def test_every_network_can_be_foretold(name: str) -> None:
    size = (64,) * models.spec(name).dims
    network = models.create(name, 1, 3, size=size, **SMALLEST.get(name, {}))
    weights = OF_A_WEIGHT * sum(weight.numel() for weight in network.parameters())
    assert training_bytes(network, size, 2) > weights
