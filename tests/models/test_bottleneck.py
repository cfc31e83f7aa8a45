from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import models
from models.bottleneck import Bottleneck, Bottlenecks, enlarged, split
from models.entry import Stage

GRIDS = [(stride, grid) for stride, grid in ((1, (2, 6, 4)), (2, (1, 3, 2)), (4, (3, 1, 2)), (8, (1, 2, 1)))]


def by_torch(head: Bottleneck, features: Tensor) -> Tensor:
    """The head as DSD's authors have it: convolution, then one deconvolution again and again; (N, K, *size)."""
    narrow, enlarge = head.narrow, head.enlarge
    logits = narrow(features)
    for _ in range(head.times):
        logits = enlarge(logits)
    assert isinstance(logits, Tensor)
    return logits


@pytest.mark.parametrize(("stride", "grid"), [*GRIDS, *((stride, grid[:2]) for stride, grid in GRIDS)])
def test_a_head_is_a_convolution_and_one_deconvolution_as_often_as_it_takes(stride: int, grid: tuple[int, ...]) -> None:
    head = Bottleneck(5, 3, stride=stride, dims=len(grid)).double()
    features = torch.randn(2, 5, *grid, dtype=torch.float64, requires_grad=True)
    logits, expected = head(features), split(by_torch(head, features))
    assert_close(logits, expected)
    assert logits.shape == (2, 3, torch.Size(grid).numel() * stride ** len(grid))
    read, pull = [features, *head.parameters()], torch.randn_like(logits)
    assert_close(torch.autograd.grad(logits, read, pull), torch.autograd.grad(expected, read, pull))


@pytest.mark.parametrize(("side", "grid"), [(2, (3, 1, 5)), (1, (3, 1, 5)), (2, (3, 5)), (2, (7,))])
def test_an_enlargement_is_torchs_transposed_convolution(side: int, grid: tuple[int, ...]) -> None:
    deconv = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(grid)]
    image, bias = torch.randn(2, 3, *grid), torch.randn(7)
    kernel = torch.randn(3, 7, *[side] * len(grid))
    assert_close(enlarged(image, kernel, bias), deconv(image, kernel, bias, stride=side))


def test_the_order_of_voxels_is_by_their_place_in_a_block() -> None:
    image = torch.arange(2 * 4 * 6).view(1, 1, 2, 4, 6)
    firsts = image[0, 0, ::2, ::2, ::2].flatten().tolist()
    lasts = image[0, 0, 1::2, 1::2, 1::2].flatten().tolist()
    ordered = split(image)[0, 0].tolist()
    assert ordered[:6] == firsts
    assert ordered[-6:] == lasts
    assert sorted(ordered) == list(range(48))


@pytest.mark.parametrize("stride", [1, 2, 4, 16])
def test_a_heads_parameters_do_not_grow_with_its_stride(stride: int) -> None:
    head = Bottleneck(11, 3, stride=stride)
    kernel = 9 if stride == 1 else 9 * 8
    assert sum(weight.numel() for weight in head.parameters()) == 11 * 3 + 3 + kernel + 3
    assert len([module for module in head.modules() if isinstance(module, nn.ConvTranspose3d)]) == 1


@pytest.mark.parametrize(("stride", "grid"), GRIDS)
def test_a_pooled_head_is_the_mean_of_its_logits(stride: int, grid: tuple[int, ...]) -> None:
    head, features = Bottleneck(5, 3, stride=stride).double(), torch.randn(2, 5, *grid, dtype=torch.float64)
    assert_close(head.pooled(features), head(features).mean(2))


def test_stages_of_equal_channels_and_stride_share_a_head_where_the_network_says_so() -> None:
    stages = {"E1": Stage("a", 1), "E2": Stage("b", 2), "D2": Stage("c", 4), "D1": Stage("d", 2)}
    channels = {"E1": 3, "E2": 5, "D2": 5, "D1": 5}
    features = {"E1": (4, 8, 4), "E2": (2, 4, 2), "D2": (1, 2, 1), "D1": (2, 4, 2)}
    given = {name: torch.randn(2, channels[name], *grid) for name, grid in features.items()}
    for shared, count in ((True, 3), (False, 4)):
        heads = Bottlenecks(stages, channels, 2, dims=3, shared=shared)
        outputs = heads(given)
        assert len(heads.heads) == count
        assert {name: output.shape for name, output in outputs.items()} == dict.fromkeys(stages, (2, 2, 128))
        assert_close(outputs["D2"].mean(2), heads.pooled(given)["D2"])


def test_another_stride_than_a_power_of_2_is_refused() -> None:
    with pytest.raises(ValueError, match="a power of 2, not 3"):
        Bottleneck(5, 3, stride=3)


@pytest.mark.parametrize("name", [name for name in models.names() if models.spec(name).build.stages])
def test_strides_of_registered_networks_are_powers_of_2(name: str) -> None:
    for stage in models.spec(name).build.stages.values():
        assert stage.stride.bit_count() == 1
