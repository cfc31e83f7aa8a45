"""Passes that only look: one that ends where a feature map is reached, and batch norm that does not count it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models.network import Network
from models.taps import INPUT_OF, tap, unwrapped


class _Reached(Exception):  # noqa: N818 (no error: the pass has what it was for)
    """Ends a forward pass."""


def up_to(network: nn.Module, path: str, images: Tensor) -> Tensor:
    """The feature map (N, c, *grid) at `path`, by a forward pass that ends there and spares what it does not need.

    That is the layers after it, and those that lead beside it to the decoder, where the network names them.

    `images` (N, C, *size); `path` is a tap, a module's path, or "input of" one, as for `models.tap`; where a module is
    passed several times, the first counts. It carries gradient. A network wrapped by Lightning Fabric or
    DistributedDataParallel is passed without the wrapping. Source: MOD, whose teacher and masked views are read at the
    encoder's deepest map alone; for MONAI's DynUNet that is 35 % of a forward pass (measured, filters 8 to 128, 48³).

    Raises: InputError for a path that the network does not have; ValueError where a pass does not come by it.
    """
    inner = unwrapped(network)
    with tap(inner, [path]) as features, _ending_at(inner, path), _left_out(inner, path):
        try:
            inner(images)
        except _Reached:
            return features[path]
    raise ValueError(f"a forward pass of {type(inner).__name__} does not come by `{path}`")


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Within the block the network's norm layers count nothing into their running statistics; else they work as ever.

    What is seen masked, or twice, would move them away from what the network meets at inference.
    """
    norms = [module for module in network.modules() if getattr(module, "running_mean", None) is not None]
    own = [(norm, dict(norm.named_buffers(recurse=False))) for norm in norms]
    for norm, buffers in own:  # other tensors, not other values: backward still reads what the first pass saw
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in own:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


@contextmanager
def _left_out(network: nn.Module, path: str) -> Iterator[None]:
    """Within the block the modules beside the way to `path` give nothing, and take no time."""
    named = network.beside if isinstance(network, Network) else ()
    root, path = _resolved(network, path)
    path = path.removeprefix(INPUT_OF)
    idle = [root.get_submodule(name) for name in named if name != path]
    for module in idle:
        vars(module)["forward"] = lambda *_: None
    try:
        yield
    finally:
        for module in idle:
            del vars(module)["forward"]


def _resolved(network: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Where paths begin, and the path that a tap's name stands for."""
    return (network.body, network.taps.get(path, path)) if isinstance(network, Network) else (network, path)


@contextmanager
def _ending_at(network: nn.Module, path: str) -> Iterator[None]:
    """Within the block a forward pass ends with `_Reached` at a path that is known to be there."""
    root, path = _resolved(network, path)
    module = root.get_submodule(path.removeprefix(INPUT_OF))

    def reached(*_: Any) -> None:
        raise _Reached

    handle: RemovableHandle
    if path.startswith(INPUT_OF):
        handle = module.register_forward_pre_hook(reached)
    else:
        handle = module.register_forward_hook(reached)
    try:
        yield
    finally:
        handle.remove()
