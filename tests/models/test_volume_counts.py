"""Parameters of the networks of volumes, to the digit: DSD, Tables III and IV, and what MOD's backbones come to."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import models
from models.cost import cost
from models.registry import spec


def parameters(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where weights take no memory and no time; Swin UNETR reads a number from `linspace` while it is built."""
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    return torch.device("meta")


@pytest.mark.parametrize(
    ("name", "shape", "options", "published"),
    [
        ("vnet", (1, 3, 32), {}, 45_601_906),
        ("unetr", (1, 3, 32), {}, 92_624_115),
        ("dynunet", (1, 3, 32), {}, 5_686_771),
        ("unetr", (1, 8, 96), {}, 92_783_944),
        ("unetr", (1, 8, 96), {"width": 32}, 101_787_016),
        ("dynunet", (1, 8, 96), {}, 5_686_856),
        ("dynunet", (1, 8, 96), {"width": 32}, 16_663_688),
        ("unetr", (4, 4, 128), {}, 102_449_732),
        ("unetr", (4, 4, 128), {"width": 64}, 143_142_404),
        ("dynunet", (4, 4, 128), {}, 5_688_132),
        ("vnet", (4, 4, 128), {}, 45_611_916),
        ("swin-unetr", (4, 4, 128), {"width": 12}, 4_079_386),
        ("dynunet", (1, 3, 32), {"width": 8}, 1_421_819),
        ("unetr", (1, 3, 32), {"width": 8, "hidden": 192}, 6_965_179 - 4_608),
    ],
)
def test_parameters_are_those_of_dsd(
    name: str, shape: tuple[int, int, int], options: dict[str, int], published: int, on_meta: torch.device
) -> None:
    """By channels, classes and side; those of UNETR without its 18,432, in the small one 4,608, that nothing calls."""
    channels, classes, side = shape
    with on_meta:
        assert parameters(models.create(name, channels, classes, size=(side,) * 3, **options)) == published


@pytest.mark.parametrize(
    ("name", "classes", "options", "counted"),
    [
        ("vit-autoencoder", 3, {}, 98_813_203 - 18_432),
        ("unetr", 3, {}, 102_468_147 - 18_432),
        ("swin-unetr", 3, {"width": 24}, 15_705_621),
        ("swin-unetr", 3, {}, 62_191_941),
        ("swin-unetr-v2", 3, {"width": 24}, 18_349_461),
        ("swin-unetr-v2", 3, {}, 72_767_301),
        ("unetr++", 3, {}, 42_647_489 - (32 + 1) * 3 - (64 + 1) * 3),
        ("unetr++", 3, {"legacy": 1}, 42_647_195),
        ("segmamba", 3, {}, 67_416_147),
        ("segmamba", 4, {}, 67_416_196),
    ],
)
def test_parameters_are_those_of_mods_backbones(
    name: str, classes: int, options: dict[str, int], counted: int, on_meta: torch.device
) -> None:
    """Of 4×128³; UNETR++ without its two auxiliary outputs, transformers without norms that nothing calls."""
    with on_meta:
        assert parameters(models.create(name, 4, classes, size=(128, 128, 128), **options)) == counted


@pytest.mark.parametrize(
    ("name", "options", "counted"),
    [
        ("vit-autoencoder", {"patch": 4, "hidden": 96, "layers": 4}, 515_251 - 768),
        ("segmamba", {"width": 16, "hidden": 128}, 5_662_947),
    ],
)
def test_networks_for_a_cpu_are_as_small_as_told(name: str, options: dict[str, int], counted: int) -> None:
    net = models.create(name, 1, 3, size=(32, 32, 32), **options)
    assert parameters(net) == counted
    assert cost(net, (32, 32, 32)).parameters == counted


def test_networks_of_volumes_are_listed_lightest_first(on_meta: torch.device) -> None:
    with on_meta:
        weights = [parameters(models.create(name, 1, 3, size=spec(name).size)) for name in models.names(dims=3)]
    assert weights == sorted(weights)


def test_flops_of_a_volume_are_two_a_multiply_accumulate() -> None:
    """V-Net's first convolution alone, 5³ of 1 to 16 channels at every voxel, and its growth with the volume."""
    net = models.create("vnet", 1, 3)
    small, large = (cost(net, (32, 32, depth)) for depth in (16, 32))
    assert small.flops > 2 * 125 * 16 * 32 * 32 * 16
    assert large.flops == 2 * small.flops
    assert large.taps == {"encoder": (256, 2, 2, 2), "decoder": (32, 32, 32, 32)}
