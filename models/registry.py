"""The networks as data: `create`, `names`, `spec`. A network's own file, and torch, are imported when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from imaging.errors import InputError

if TYPE_CHECKING:
    from models.network import Network

Role = Literal["student", "teacher"]
TAPS = ("encoder", "decoder")
"""\"The final feature layer of each teacher's encoder and decoder\" (AMTKD, section 3.2)."""


@dataclass(frozen=True)
class Enlarging:
    """How a network ends whose logits are a plain bilinear enlargement of a coarser grid's."""

    of: str
    """Module path whose output these coarser logits are."""
    stride: int
    """Pixels of the slice to one of the grid, along rows and columns."""
    align_corners: bool = False

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The grid for slices of `size` (H, W), rounded up."""
        return -(-size[0] // self.stride), -(-size[1] // self.stride)


@dataclass(frozen=True)
class Build:
    """One way to build a network: who makes it, where its taps lie, which images it takes."""

    factory: str
    """`module:callable`, called with (in_channels, classes, **options)."""
    taps: Mapping[str, str]
    """Tap → module path, or "input of" a module path, whose last feature map it is."""
    multiple: int = 1
    """Height and width are multiples of it."""
    ends: Enlarging | None = None
    """None where the last layer with parameters gives the logits of every pixel."""


@dataclass(frozen=True)
class Spec:
    """A registered network; printed figures are those of AMTKD's Table 2, at 1×384×384 with 2 classes."""

    name: str
    role: Role
    title: str
    paper: str
    build: Build
    paper_parameters: int | None = None
    """None, as `paper_flops`, for a network that Table 2 does not have."""
    paper_flops: int | None = None
    with_encoder: Build | None = None
    """How option `encoder` builds it, a smaller network of the same family; None where it takes no such option."""
    widths: range = range(0)
    """What option `width` may be, the channels of its first level; empty where it takes no such option."""

    @property
    def options(self) -> tuple[str, ...]:
        """What `create` takes for this network besides channels and classes."""
        return (*(("encoder", "pretrained") if self.with_encoder else ()), *(("width",) if self.widths else ()))

    def build_with(self, options: Mapping[str, str | int]) -> Build:
        """How `create` builds it with these options."""
        return self.with_encoder if self.with_encoder and "encoder" in options else self.build


def _same(path: str) -> dict[str, str]:
    """Both taps of a network that has no layer between its trunk and its classifier."""
    return {"encoder": path, "decoder": path}


# smp's networks; PSPNet's decoder ends in a dropout, which the tap leaves out as it does in the paper's networks.
_DEEPLAB_TAPS = {"encoder": "encoder", "decoder": "input of segmentation_head"}
_PSP_TAPS = {"encoder": "encoder", "decoder": "decoder.conv"}
_FCN_TAPS = {"encoder": "trunk", "decoder": "head.2"}
_SMP_HEAD = partial(Enlarging, "segmentation_head.0", align_corners=True)

# MONAI's U-Net is one level inside the other; its last level reads its own features beside those from below.
_BOTTOM = "model" + 4 * ".1.submodule"

_SPECS = (
    Spec(
        name="espnet",
        role="student",
        title="ESPNet (p = 2, q = 3)",
        paper="Mehta et al. 2018, ECCV",
        build=Build("models.espnet:ESPNet", {"encoder": "level3", "decoder": "fuse1"}, multiple=8),
        paper_parameters=183_000,
        paper_flops=1_270_000_000,
    ),
    Spec(
        name="enet",
        role="student",
        title="ENet",
        paper="Paszke et al. 2016, arXiv:1606.02147",
        build=Build("models.enet:ENet", {"encoder": "stage3", "decoder": "stage5"}, multiple=8),
        paper_parameters=353_000,
        paper_flops=2_200_000_000,
    ),
    Spec(
        name="mobilenetv2",
        role="student",
        title="MobileNetV2, stride 8",
        paper="Sandler et al. 2018, CVPR",
        build=Build("models.mobilenetv2:mobilenetv2", _same("trunk")),
        paper_parameters=2_230_000,
        paper_flops=19_840_000_000,
    ),
    Spec(
        name="unet",
        role="teacher",
        title="U-Net, residual",
        paper="Ronneberger et al. 2015, MICCAI",
        build=Build("models.unet:unet", {"encoder": _BOTTOM, "decoder": "input of model.2"}, multiple=16),
        widths=range(4, 129),
    ),
    Spec(
        name="pspnet",
        role="teacher",
        title="PSPNet, ResNet-50",
        paper="Zhao et al. 2017, CVPR",
        build=Build("models.pspnet:pspnet", {"encoder": "trunk", "decoder": "head.fuse"}, ends=Enlarging("head", 8)),
        paper_parameters=46_710_000,
        paper_flops=207_700_000_000,
        with_encoder=Build("models.encoders:pspnet", _PSP_TAPS, multiple=8, ends=_SMP_HEAD(8)),
    ),
    Spec(
        name="fcn",
        role="teacher",
        title="FCN, ResNet-101",
        paper="Long et al. 2015, CVPR",
        build=Build("models.fcn:fcn", _FCN_TAPS, ends=Enlarging("head", 8)),
        paper_parameters=51_960_000,
        paper_flops=199_740_000_000,
        with_encoder=Build("models.encoders:fcn", _FCN_TAPS, ends=Enlarging("head", 8)),
    ),
    Spec(
        name="deeplabv3plus",
        role="teacher",
        title="DeepLabV3+, Xception-65",
        paper="Chen et al. 2018, ECCV",
        build=Build(
            "models.deeplabv3plus:DeepLabV3Plus",
            {"encoder": "trunk", "decoder": "fuse"},
            ends=Enlarging("classifier", 4),
        ),
        paper_parameters=56_800_000,
        paper_flops=273_940_000_000,
        with_encoder=Build("models.encoders:deeplabv3plus", _DEEPLAB_TAPS, multiple=16, ends=_SMP_HEAD(4)),
    ),
    Spec(
        name="resnext101",
        role="teacher",
        title="ResNeXt-101 32×8d",
        paper="Xie et al. 2017, CVPR",
        build=Build("models.resnext101:resnext101", _same("trunk"), ends=Enlarging("head", 32)),
        paper_parameters=86_740_000,
        paper_flops=96_540_000_000,
    ),
)
_BY_NAME = {entry.name: entry for entry in _SPECS}


def names(role: Role | None = None) -> list[str]:
    """Names of all networks, or of one role's, lightest first."""
    return [entry.name for entry in _SPECS if role in (None, entry.role)]


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


def create(name: str, in_channels: int = 1, classes: int = 2, **options: str | int) -> Network:
    """The network of that name: images (N, in_channels, H, W) to logits (N, classes, H, W), freshly initialised.

    Without options it is the network of AMTKD's Table 2, or a U-Net 32 wide, which that lacks. `encoder` (DeepLabV3+,
    FCN, PSPNet) puts an encoder of segmentation-models-pytorch in place of its own, such as "resnet18"; `pretrained`
    downloads its ImageNet weights. `width` (U-Net) is the channels of its first level.

    Raises: InputError for an unknown network or option, an unknown encoder, or weights that cannot be downloaded.
    """
    entry = spec(name)
    _check(entry, in_channels, classes, options)
    build = entry.build_with(options)
    module, _, factory = build.factory.partition(":")
    body = getattr(import_module(module), factory)(in_channels, classes, **options)
    from models.network import Network  # noqa: PLC0415 (torch, not before a network is wanted)

    return Network(body, name=name, in_channels=in_channels, taps=build.taps, multiple=build.multiple, ends=build.ends)


def _check(entry: Spec, in_channels: int, classes: int, options: Mapping[str, str | int]) -> None:
    """InputError unless the network can be built so."""
    check_options(entry, options)
    if min(in_channels, classes) < 1:
        raise InputError(
            f"`{entry.name}` cannot have {in_channels} channels and {classes} classes", fix="both start at 1"
        )


def check_options(entry: Spec, options: Mapping[str, str | int]) -> None:
    """InputError unless the network takes these options; whether such an encoder exists shows when it is built."""
    for option in options:
        if option not in entry.options:
            has = f"its options: {', '.join(entry.options)}" if entry.options else "it takes no options"
            raise InputError(f"network `{entry.name}` has no option `{option}`", fix=has)
    if "width" in options and options["width"] not in entry.widths:
        fix = f"write a whole number from {entry.widths[0]} to {entry.widths[-1]}, such as `width = 16`"
        raise InputError(f"option `width` of network `{entry.name}` cannot be {options['width']!r}", fix=fix)
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
