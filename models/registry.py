"""The networks by name: `create`, `names`, `spec`. A network's own file, and torch, are imported when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, overload

from imaging.errors import InputError
from models.entry import TAPS, Build, Choice, Enlarging, Role, Spec, Stage
from models.sizes import check_size
from models.slice_entries import SLICE_NETWORKS
from models.volume_entries import VOLUME_NETWORKS

if TYPE_CHECKING:
    from models.network import Network

__all__ = [
    "TAPS",
    "Build",
    "Choice",
    "Enlarging",
    "Role",
    "Spec",
    "Stage",
    "check_options",
    "create",
    "ends_of",
    "names",
    "spec",
]

_ENTRIES = (*SLICE_NETWORKS, *VOLUME_NETWORKS)
_BY_NAME = {entry.name: entry for entry in _ENTRIES}


def names(role: Role | None = None, dims: Literal[2, 3] | None = None) -> list[str]:
    """Names of all networks, or of those that can have a role, or read slices or volumes; each kind lightest first.

    A network that is "either" is listed among students and among teachers.
    """
    chosen = [entry for entry in _ENTRIES if dims in (None, entry.dims)]
    return [entry.name for entry in chosen if role is None or entry.role in (role, "either")]


def spec(name: str) -> Spec:
    """What is known of a network without building it; InputError with the nearest name if there is none."""
    if name not in _BY_NAME:
        near = get_close_matches(name, _BY_NAME, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise InputError(f"no network is called `{name}`", fix=f"{hint}There are: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def ends_of(name: str, options: Mapping[str, str | int]) -> Enlarging | None:
    """How that network ends; None too for one that is not registered."""
    return _BY_NAME[name].build_with(options).ends if name in _BY_NAME else None


@overload
def create(name: str, in_channels: int = 1, classes: int = 2, **options: str | int) -> Network: ...
@overload
def create(
    name: str, in_channels: int = 1, classes: int = 2, *, size: tuple[int, ...] | None, **options: str | int
) -> Network: ...
def create(
    name: str,
    in_channels: int = 1,
    classes: int = 2,
    *,
    size: Any = None,
    **options: str | int,
) -> Network:
    """The network of that name, images to logits of the same size, freshly initialised from torch's own generator.

    Shapes: (N, in_channels, H, W) to (N, classes, H, W); 3-D networks (N, in_channels, D, H, W) to (N, classes, D, H,
    W). Some of these are built for one `size` (D, H, W) of what they will be shown, their entry's where it is left out;
    others only refuse a size that they cannot take, and 2-D networks ignore it.

    Without options a 2-D network is that of AMTKD's Table 2, or a U-Net 32 wide, which that lacks. `encoder`
    (DeepLabV3+, FCN, PSPNet) puts an encoder of segmentation-models-pytorch in place of its own, such as "resnet18";
    `pretrained` downloads its ImageNet weights. Other options are whole numbers: `spec(name).choices` says which.

    Raises: InputError for an unknown network or option, an unknown encoder, weights that cannot be downloaded, or a
    size that the network cannot be built for.
    """
    entry = spec(name)
    _check(entry, in_channels, classes, options)
    build = entry.build_with(options)
    built_for = _built_for(entry, build, size)
    wanted: dict[str, Any] = {**options, **({"size": built_for} if built_for else {})}
    module, _, factory = build.factory.partition(":")
    body = getattr(import_module(module), factory)(in_channels, classes, **wanted)
    from models.network import Network  # noqa: PLC0415 (torch, not before a network is wanted)

    return Network(
        body,
        name=name,
        in_channels=in_channels,
        taps=build.taps,
        multiple=build.multiple,
        one_cell=build.one_cell,
        built_for=built_for,
        ends=build.ends,
        dims=entry.dims,
        stages=build.stages,
        shares_heads=build.shares_heads,
        bottom=build.bottom,
        beside=build.beside,
    )


def _built_for(entry: Spec, build: Build, size: Any) -> tuple[int, ...] | None:
    """The one size of a network of fixed size, None for another; InputError where a 3-D one cannot take `size`."""
    if entry.dims == 2:
        return None
    wanted = entry.size if size is None else size
    if not isinstance(wanted, tuple) or len(wanted) != entry.dims:
        raise InputError(f"`{entry.name}` cannot be built for size {wanted}", fix="a size is (depth, height, width)")
    check_size(wanted, build.multiple, one_cell=build.one_cell, what=f"`{entry.name}` cannot be built for")
    return wanted if build.fixed_size else None


def _check(entry: Spec, in_channels: int, classes: int, options: Mapping[str, str | int]) -> None:
    """InputError unless the network can be built so."""
    check_options(entry, options)
    if min(in_channels, classes) < 1:
        raise InputError(
            f"`{entry.name}` cannot have {in_channels} channels and {classes} classes", fix="both start at 1"
        )
    if entry.in_channels and in_channels not in entry.in_channels:
        *some, last = map(str, entry.in_channels)
        raise InputError(
            f"`{entry.name}` cannot read images of {in_channels} channels", fix=f"it takes {', '.join(some)} or {last}"
        )


def check_options(entry: Spec, options: Mapping[str, str | int]) -> None:
    """InputError unless the network takes these options; whether such an encoder exists shows when it is built."""
    for option, value in options.items():
        if option not in entry.options:
            has = f"its options: {', '.join(entry.options)}" if entry.options else "it takes no options"
            raise InputError(f"network `{entry.name}` has no option `{option}`", fix=has)
        choice = entry.choices.get(option)
        if choice and not (isinstance(value, int) and value in choice.values):
            fix = f"write {choice.said}, such as `{option} = {choice.default}`"
            raise InputError(f"option `{option}` of network `{entry.name}` cannot be {value!r}", fix=fix)
    if not isinstance(options.get("encoder", ""), str):
        raise InputError(f"option `encoder` of network `{entry.name}` is a name", fix='write `encoder = "resnet18"`')
    if set(str(options.get("encoder", ""))) & set(":/\\"):
        raise InputError(
            f"option `encoder` of network `{entry.name}` names a place to load from, {options['encoder']!r}",
            fix="write the plain name of an encoder; a study does not choose what a hospital opens or downloads",
        )
    if "pretrained" in options and "encoder" not in options:
        raise InputError(
            f"network `{entry.name}` takes `pretrained` only with `encoder`", fix='add `encoder = "resnet18"`'
        )
