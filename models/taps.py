"""Features from inside a network, by forward hooks that go when the block ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imaging.errors import InputError
from models.network import Network

INPUT_OF = "input of "


@contextmanager
def tap(net: nn.Module, names: Sequence[str] = ("encoder", "decoder")) -> Iterator[dict[str, Tensor]]:
    """A dictionary {name: features (N, c, h, w)} that every forward pass within the block fills anew.

    A name is a tap of the network ("encoder", "decoder": its final feature layers, AMTKD section 3.2), a module's path,
    or "input of" a module's path; where a module gives several maps, the last counts. The features carry gradient.
    A network wrapped by Lightning Fabric or DistributedDataParallel is tapped the same.

    Raises: InputError for a name that the network does not have.
    """
    inner = unwrapped(net)
    features: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(_hook(inner, name, features))
        yield features


def opaque(net: nn.Module) -> bool:
    """Whether nobody can look inside: a network that has no taps."""
    inner = unwrapped(net)
    return isinstance(inner, Network) and not inner.taps


def unwrapped(net: nn.Module) -> nn.Module:
    """The network itself, without what Fabric or DistributedDataParallel put around it."""
    while isinstance(inside := getattr(net, "module", None), nn.Module):
        net = inside
    return net


def _hook(net: nn.Module, name: str, features: dict[str, Tensor]) -> RemovableHandle:
    """Keep one feature map under its name at each forward pass."""
    taps, root = (net.taps, net.body) if isinstance(net, Network) else ({}, net)
    path = taps.get(name, name)
    modules = dict(root.named_modules())
    module = modules.get(path.removeprefix(INPUT_OF))
    if module is None:
        near = get_close_matches(name, [*taps, *modules], n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise InputError(f"the network has no tap or module `{name}`", fix=f"{hint}Taps: {', '.join(taps) or 'none'}")

    def keep_input(_: nn.Module, args: tuple[Any, ...]) -> None:
        features[name] = _last(args[0])

    def keep_output(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        features[name] = _last(output)

    handle: RemovableHandle
    if path.startswith(INPUT_OF):
        handle = module.register_forward_pre_hook(keep_input)
    else:
        handle = module.register_forward_hook(keep_output)
    return handle


def _last(output: Any) -> Tensor:
    """The deepest feature map of an encoder that gives one a stage, or the only one."""
    feature: Tensor = output[-1] if isinstance(output, (list, tuple)) else output
    return feature
