"""Attention maps and region contrast; the worked numbers were computed apart from any library."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import floats, integers
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from models.knowledge import NO_MASK, attention_map, enlarged, region_contrast, region_shares, scaled, shrunk


def array(*values: object) -> Tensor:
    return torch.tensor([*values], dtype=torch.float64)


def unit(maps: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(maps, dim=(1, 2), keepdim=True)
    return maps / norm


STUDENT = array([[[1, -2], [0, 3]], [[2, 0], [-2, 1]]])
TEACHER = array([[[1, 1], [0, 2]], [[0, -1], [1, 2]], [[-2, 0], [0, 1]]])
F = array([[[1, 2], [3, 0]], [[0, 1], [1, 4]]])
G = array([[[2, 0], [0, 1]], [[1, 1], [3, 1]], [[0, 2], [1, 1]]])


def test_attention_maps_of_the_worked_example() -> None:
    assert_close(attention_map(STUDENT), array([[3, 2], [2, 4]]))
    assert_close(attention_map(TEACHER), array([[3, 2], [1, 5]]))


def test_attention_distances_of_the_worked_example() -> None:
    """AMTKD's term in our reading (p = 1), Zagoruyko's code (p = 2, mean) and EMKD's (p = 4, sum)."""
    difference = {p: unit(attention_map(STUDENT, p=p)) - unit(attention_map(TEACHER, p=p)) for p in (1, 2, 4)}
    assert float(difference[1].abs().sum()) == pytest.approx(0.36210481, abs=1e-6)
    assert float(difference[2].square().mean()) == pytest.approx(0.01898080, abs=1e-6)
    assert float(difference[4].square().sum()) == pytest.approx(0.11345310, abs=1e-6)


def test_scaled_maps_fit_half_precision_and_keep_their_direction() -> None:
    maps = torch.rand(3, 5, 7) * torch.tensor([1e7, 1e-7, 0])[:, None, None]
    fitted = scaled(maps)
    assert fitted.amax((1, 2)).tolist() == [1, 1, 0]
    assert_close(unit(fitted[:2].half().float()), unit(maps[:2]), rtol=2e-3, atol=1e-4)


def test_a_shrunk_map_enlarged_is_nearer_than_averages_enlarged() -> None:
    rows, columns = torch.meshgrid(torch.linspace(-3, 3, 23), torch.linspace(-3, 3, 37), indexing="ij")
    logits = torch.stack([(2 * rows).sin() + columns, 4 - rows.square() - columns.square()])[None]
    coarse, averages = shrunk(logits, (12, 19)), avg_pool2d(logits, 2, ceil_mode=True)
    assert coarse.shape == averages.shape == (1, 2, 12, 19)
    far, farther = ((enlarged(one, (23, 37)) - logits).abs().mean() for one in (coarse, averages))
    assert far < 0.5 * farther


def test_region_contrast_of_the_worked_example() -> None:
    mask = torch.tensor([[[0, 0], [1, 1]]])
    contrast, valid = region_contrast(torch.cat([F, F]), mask.expand(2, -1, -1), 2)
    assert_close(contrast, array([0.75925660], [0.75925660]), rtol=0, atol=1e-6)
    assert valid.tolist() == [[True], [True]]
    assert_close(region_contrast(G, mask, 2)[0], array([0.88191710]), rtol=0, atol=1e-6)


def test_region_contrast_of_three_classes() -> None:
    mask = torch.tensor([[[0, 1], [2, 1]]])
    f, _ = region_contrast(F, mask, 3)
    g, _ = region_contrast(G, mask, 3)
    assert_close(f, array([0.37139068, 0.94868330, 0.64594224]), rtol=0, atol=1e-6)
    assert_close(g, array([0.47809144, 0.42426407, 0.76063883]), rtol=0, atol=1e-6)
    assert float((f - g).norm()) == pytest.approx(0.54731699, abs=1e-6)


def test_a_mask_is_pooled_to_the_grid_by_area() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    for row, column in [(1, 1), (1, 2), (2, 2), (3, 3)]:
        mask[0, row, column] = 1
    shares, outlined = region_shares(mask, 2, F)
    assert_close(shares[:, 1], array([[0.25, 0.25], [0, 0.5]]))
    assert_close(shares.sum(1), torch.ones(1, 2, 2, dtype=torch.float64))
    assert outlined.tolist() == [True]
    assert_close(region_contrast(F, mask, 2)[0], array([0.80873608]), rtol=0, atol=1e-6)


def random_case(seed: int, classes: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 7, 5, 11, generator=draw)
    return features, torch.randint(0, classes, (3, 13, 17), generator=draw)


@given(seed=integers(0, 1000), classes=integers(2, 5), gain=floats(0.01, 100))
def test_contrast_is_a_cosine_and_ignores_the_gain(seed: int, classes: int, gain: float) -> None:
    features, mask = random_case(seed, classes)
    contrast, valid = region_contrast(features, mask, classes)
    assert contrast.shape == valid.shape == (3, classes * (classes - 1) // 2)
    assert contrast.dtype == torch.float32
    assert valid.all()
    assert bool((contrast.abs() <= 1 + 1e-6).all())
    assert_close(region_contrast(gain * features, mask, classes)[0], contrast, rtol=1e-4, atol=1e-5)


@given(seed=integers(0, 1000))
def test_flipping_image_and_mask_together_changes_nothing(seed: int) -> None:
    features, mask = random_case(seed, 3)
    contrast, _ = region_contrast(features, mask, 3)
    assert_close(region_contrast(features.flip(-1), mask.flip(-1), 3)[0], contrast, rtol=1e-4, atol=1e-5)


def test_a_pair_with_an_absent_class_is_invalid_and_zero() -> None:
    features, mask = random_case(0, 3)
    mask[1][mask[1] == 2] = 0
    contrast, valid = region_contrast(features, mask, 3)
    assert valid.tolist() == [[True] * 3, [True, False, False], [True] * 3]
    assert contrast[1, 1:].tolist() == [0, 0]


def test_one_pixel_of_a_class_is_enough() -> None:
    features, mask = random_case(0, 2)
    mask[:] = 0
    mask[0, 12, 16] = 1
    assert region_contrast(features, mask, 2)[1].tolist() == [[True], [False], [False]]


def test_a_slice_that_is_not_outlined_anywhere_is_invalid_as_a_whole() -> None:
    features, mask = random_case(0, 2)
    mask[0], mask[2, 3, 4] = NO_MASK, NO_MASK
    contrast, valid = region_contrast(features, mask.to(torch.uint8), 2)
    assert valid.tolist() == [[False], [True], [False]]
    assert_close(contrast[1:2], region_contrast(features[1:2], mask[1:2], 2)[0])


def test_dead_features_are_invalid_and_their_gradient_is_zero() -> None:
    features = torch.zeros(1, 7, 5, 11, requires_grad=True)
    mask = random_case(0, 2)[1][:1]
    contrast, valid = region_contrast(features, mask, 2)
    assert not valid.any()
    (gradient,) = torch.autograd.grad(contrast.sum(), features)
    assert not gradient.any()


def test_gradients_of_both_are_right() -> None:
    features = torch.randn(2, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(0, 3, (2, 7, 11))
    mask[0, 0, 0] = NO_MASK
    assert torch.autograd.gradcheck(lambda f: region_contrast(f, mask, 3)[0], (features,))
    assert torch.autograd.gradcheck(lambda f: attention_map(f, p=2), (features,))


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    features, mask = random_case(0, 3)
    half = features.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        contrast, _ = region_contrast(half, mask, 3)
        attention = attention_map(half)
    assert_close(contrast, region_contrast(half.float(), mask, 3)[0], rtol=0, atol=0)
    assert_close(attention, attention_map(half.float()), rtol=0, atol=0)


@pytest.mark.parametrize("mask", [torch.full((3, 13, 17), 3), torch.full((3, 13, 17), -1)])
def test_values_outside_the_classes_are_refused(mask: Tensor) -> None:
    with pytest.raises(ValueError, match="outside 0 to 2"):
        region_contrast(random_case(0, 3)[0], mask, 3)


def test_a_mask_of_other_slices_is_refused() -> None:
    features, mask = random_case(0, 3)
    with pytest.raises(ValueError, match="does not belong"):
        region_contrast(features, mask[:2], 3)
