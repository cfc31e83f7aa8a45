"""The networks of slices: those of AMTKD's Table 2, and a U-Net, which it lacks."""

from __future__ import annotations

from functools import partial

from models.entry import Build, Choice, Enlarging, Spec, Stage


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
_LEVELS = ["model" + level * ".1.submodule" for level in range(4)]
_UNET_STAGES = {
    **{f"E{level + 1}": Stage(f"{_LEVELS[level]}.0", 2 ** (level + 1)) for level in range(4)},
    "D4": Stage(_BOTTOM, 16),
    **{f"D{level}": Stage(f"{_LEVELS[level]}.2", 2**level) for level in (3, 2, 1)},
}

SLICE_NETWORKS = (
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
        build=Build(
            "models.unet:unet",
            {"encoder": _BOTTOM, "decoder": "input of model.2"},
            multiple=16,
            stages=_UNET_STAGES,
            bottom=_UNET_STAGES["D4"],
        ),
        choices={"width": Choice(range(4, 129), 32, "channels of the first level")},
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
