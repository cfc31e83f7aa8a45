"""How much memory a step of training takes, foretold on torch's meta device, where nothing is computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef

from models.network import Network

OF_A_WEIGHT = 16
"""Bytes: its value, its gradient, and Adam's two means."""


def training_bytes(net: Network, size: tuple[int, ...], batch: int) -> int:
    """Bytes of weights, gradients, optimiser, and what the backward pass of a batch needs of the forward pass.

    `size` is a slice's or a patch's. A lower bound: what a loss or a scheme adds is left out. The network is left as it
    was.
    """
    learned = {name for name, _ in net.named_parameters()}
    state = {name: one.detach().to("meta").requires_grad_(name in learned) for name, one in net.state_dict().items()}
    weights = {_storage(one) for one in state.values()}
    kept: dict[int, Tensor] = {}  # the tensors too: a storage that is gone leaves its number to another

    def keep(tensor: Tensor) -> Tensor:
        kept[_storage(tensor)] = tensor
        return tensor

    image = torch.empty(batch, net.in_channels, *size, device="meta")
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = functional_call(net, state, (image,))
    activations = sum(one.untyped_storage().nbytes() for key, one in kept.items() if key not in weights)
    return int(OF_A_WEIGHT * sum(weight.numel() for weight in net.parameters()) + activations + 4 * logits.numel())


def weights_beside(network: nn.Module, trainer: nn.Module) -> int:
    """Bytes of what `trainer` holds beside the network: heads that learn, and moving averages that do not."""
    own = set(map(id, network.parameters()))
    rest = [weight for weight in trainer.parameters() if id(weight) not in own]
    return sum(weight.numel() * (OF_A_WEIGHT if weight.requires_grad else weight.element_size()) for weight in rest)


def _storage(tensor: Tensor) -> int:
    """What two views of the same memory have in common."""
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)  # type: ignore[no-untyped-call]
