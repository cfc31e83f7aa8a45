"""The networks of volumes that DSD and MOD train: where their stages, their bottom and their taps lie.

Stages of UNETR, DynUNet, V-Net and Swin UNETR are those of DSD's authors' code, of SegMamba and UNETR++ ours. The
bottom is MOD's tap "efm". Both taps of every network: the encoder's is its bottom, the decoder's what the output
convolution reads, in V-Net the features before the whole output transition.
"""

from __future__ import annotations

from functools import partial

from models.entry import Build, Choice, Spec, Stage

_STAGES = ("E1", "E2", "E3", "E4", "D4", "D3", "D2", "D1")
_U_STRIDES = (1, 2, 4, 8, 16, 8, 4, 2)
_VOLUME = partial(Spec, role="either", dims=3, size=(32, 32, 32))


def _stages(*paths: str, strides: tuple[int, ...] = _U_STRIDES) -> dict[str, Stage]:
    """The stages in the order of `_STAGES`."""
    return {name: Stage(path, stride) for name, path, stride in zip(_STAGES, paths, strides, strict=True)}


_ENCODERS = ("encoder1", "encoder2", "encoder3", "encoder4")
_UNETR = Build(
    "models.unetr:unetr",
    {"encoder": "input of decoder5", "decoder": "decoder2"},
    multiple=16,
    fixed_size=True,
    stages=_stages(*_ENCODERS, "input of decoder5", "decoder5", "decoder4", "decoder3"),
    bottom=Stage("input of decoder5", 16),
    beside=_ENCODERS,
)
_DYNUNET = Build(
    "models.dynunet:DynUNet",
    {"encoder": "bottleneck", "decoder": "upsamples.3"},
    multiple=16,
    one_cell=False,
    stages=_stages(
        "input_block",
        *(f"downsamples.{level}" for level in range(3)),
        "bottleneck",
        *(f"upsamples.{level}" for level in range(3)),
    ),
    shares_heads=True,
    bottom=Stage("bottleneck", 16),
)
_VNET = Build(
    "models.vnet:vnet",
    {"encoder": "down_tr256", "decoder": "up_tr32"},
    multiple=16,
    stages=_stages("in_tr", "down_tr32", "down_tr64", "down_tr128", "down_tr256", "up_tr256", "up_tr128", "up_tr64"),
    bottom=Stage("down_tr256", 16),
)
_SWIN_UNETR = partial(
    Build,
    taps={"encoder": "encoder10", "decoder": "decoder1"},
    multiple=32,
    one_cell=False,
    stages=_stages(*_ENCODERS, "decoder5", "decoder4", "decoder3", "decoder2"),
    shares_heads=True,
    bottom=Stage("encoder10", 32),
    beside=_ENCODERS,
)
_UNETRPP = Build(
    "models.unetrpp:UNETRPP",
    {"encoder": "stages.3", "decoder": "decoder2"},
    multiple=32,
    fixed_size=True,
    stages=_stages(
        "encoder1",
        *(f"stages.{level}" for level in range(4)),
        "decoder5",
        "decoder4",
        "decoder3",
        strides=(1, 4, 8, 16, 32, 16, 8, 4),
    ),
    bottom=Stage("stages.3", 32),
    beside=_ENCODERS[:1],
)
_SEGMAMBA = Build(
    "models.segmamba:SegMamba",
    {"encoder": "encoder5", "decoder": "decoder1"},
    multiple=16,
    one_cell=False,
    stages=_stages(*_ENCODERS, "encoder5", "decoder5", "decoder4", "decoder3"),
    bottom=Stage("encoder5", 16),
    beside=_ENCODERS,
)


def _vit(patch: int) -> Build:
    """The auto-encoder on patches of that side. It has no U; its bottom is the last norm's tokens, as a grid."""
    grid = "input of net.conv3d_transpose"
    taps = {"encoder": grid, "decoder": "input of net.conv3d_transpose_1"}
    factory = "models.vit_autoencoder:ViTSegmenter"
    return Build(factory, taps, multiple=patch, fixed_size=True, bottom=Stage(grid, patch))


_HIDDEN = Choice(range(48, 1009, 48), 768, "width of the tokens")
_SWIN_WIDTH = {"width": Choice(range(12, 97, 12), 48, "channels of the first level")}

VOLUME_NETWORKS: tuple[Spec, ...] = (
    _VOLUME(
        name="dynunet",
        title="DynUNet (nnU-Net), residual",
        paper="Isensee et al. 2021, Nature Methods",
        build=_DYNUNET,
        choices={"width": Choice(range(4, 65), 16, "channels of the first level")},
    ),
    _VOLUME(
        name="unetr++",
        title="UNETR++",
        paper="Shaker et al. 2024, IEEE TMI",
        build=_UNETRPP,
        size=(64, 64, 64),
        choices={
            "width": Choice(range(8, 65, 4), 32, "channels of the first stage of attention"),
            "legacy": Choice((0, 1), 0, "1 mixes tokens and channels as the authors' code does"),
        },
    ),
    _VOLUME(
        name="vnet",
        title="V-Net",
        paper="Milletari et al. 2016, 3DV",
        build=_VNET,
        in_channels=(1, 2, 4, 8, 16),
    ),
    _VOLUME(
        name="swin-unetr",
        title="Swin UNETR",
        paper="Hatamizadeh et al. 2022, BrainLes",
        build=_SWIN_UNETR("models.swin_unetr:swin_unetr"),
        size=(64, 64, 64),
        choices=_SWIN_WIDTH,
    ),
    _VOLUME(
        name="segmamba",
        title="SegMamba",
        paper="Xing et al. 2024, MICCAI",
        build=_SEGMAMBA,
        choices={
            "width": Choice(range(8, 65, 8), 48, "channels of the first level"),
            "hidden": Choice(range(16, 1025, 16), 768, "channels of the bottom, 16 times the width where left out"),
        },
    ),
    _VOLUME(
        name="swin-unetr-v2",
        title="Swin UNETR V2",
        paper="He et al. 2023, MICCAI",
        build=_SWIN_UNETR("models.swin_unetr:swin_unetr_v2"),
        size=(64, 64, 64),
        choices=_SWIN_WIDTH,
    ),
    _VOLUME(
        name="vit-autoencoder",
        title="ViT auto-encoder",
        paper="Dosovitskiy et al. 2021, ICLR",
        build=_vit(16),
        with_patch={patch: _vit(patch) for patch in (4, 16)},
        choices={
            "hidden": _HIDDEN,
            "patch": Choice((4, 16), 16, "side of a patch in voxels"),
            "layers": Choice(range(1, 25), 12, "transformer layers"),
        },
    ),
    _VOLUME(
        name="unetr",
        title="UNETR",
        paper="Hatamizadeh et al. 2022, WACV",
        build=_UNETR,
        choices={"width": Choice(range(4, 65), 16, "channels of the first level"), "hidden": _HIDDEN},
    ),
)
"""Lightest first, as they are without options."""
