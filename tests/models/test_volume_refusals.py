"""What a network of volumes cannot be built for or with, and what its user is told."""

from __future__ import annotations

import pytest
import torch

import models
from imaging.errors import InputError
from models.sizes import fits, nearest


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("dynunet", (16, 16, 16), "multiples of 16 and not all of them 16, such as 32 × 32 × 32$"),
        ("segmamba", (16, 1, 16), "not all of them 16, such as 32 × 32 × 32$"),
        ("swin-unetr", (32, 32, 32), "not all of them 32, such as 64 × 64 × 64$"),
        ("unetr", (40, 32, 16), "multiples of 16, such as 32 × 32 × 16 or 48 × 32 × 16$"),
        ("unetr", (32, 32), r"cannot be built for size \(32, 32\); a size is \(depth, height, width\)"),
        ("unetr++", (32, 48, 64), "multiples of 32, such as 32 × 32 × 64 or 32 × 64 × 64$"),
    ],
)
def test_a_size_that_cannot_be_built_for_is_refused(name: str, size: tuple[int, ...], words: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=words):
        models.create(name, size=size)


def test_vnet_names_the_channels_that_it_takes() -> None:
    with pytest.raises(InputError, match=r"`vnet` cannot read images of 3 channels; it takes 1, 2, 4, 8 or 16$"):
        models.create("vnet", 3)


@pytest.mark.parametrize(
    ("name", "option", "value", "words"),
    [
        ("dynunet", "width", 3, "write a whole number from 4 to 64, such as `width = 16`"),
        ("unetr", "hidden", 100, "write a multiple of 48 from 48 to 1008, such as `hidden = 768`"),
        ("swin-unetr", "width", 16, "write a multiple of 12 from 12 to 96, such as `width = 48`"),
        ("unetr++", "legacy", 2, "write 0 or 1, such as `legacy = 0`"),
        ("vit-autoencoder", "patch", 8, "write 4 or 16, such as `patch = 16`"),
        ("segmamba", "hidden", 16.0, "cannot be 16.0; write a multiple of 16 from 16 to 1024"),
    ],
)
def test_a_wrong_option_is_refused_with_what_it_may_be(name: str, option: str, value: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        models.create(name, **{option: value})


@pytest.mark.parametrize(
    ("size", "multiple", "one_cell", "offered"),
    [
        ((37, 53), 8, True, [(32, 48), (40, 56)]),
        ((5, 16), 8, True, [(8, 16)]),
        ((16, 16, 16), 16, False, [(32, 32, 32)]),
        ((17, 16, 16), 16, False, [(32, 16, 16)]),
        ((33, 16, 16), 16, False, [(32, 16, 16), (48, 16, 16)]),
        ((0, 7, 7), 1, True, [(1, 7, 7)]),
    ],
)
def test_sizes_offered_fit(
    size: tuple[int, ...], multiple: int, one_cell: bool, offered: list[tuple[int, ...]]
) -> None:
    assert not fits(size, multiple, one_cell=one_cell)
    assert nearest(size, multiple, one_cell=one_cell) == offered
    assert all(fits(one, multiple, one_cell=one_cell) for one in offered)


def test_a_network_of_slices_takes_any_size_when_it_is_built() -> None:
    assert models.create("enet", size=(37, 53)).built_for is None


@pytest.mark.parametrize("name", ["dynunet", "swin-unetr", "segmamba"])
def test_a_single_cell_is_refused_before_its_instance_norm_fails(name: str) -> None:
    side = models.spec(name).build.multiple
    width = models.spec(name).choices["width"].values[0]
    net = models.create(name, width=width).eval()
    with pytest.raises(InputError, match=f"`{name}` was given patches of {side} × {side} × {side}; "):
        net(torch.zeros(1, 1, side, side, side))
    with pytest.raises(ValueError, match="Expected more than 1 spatial element"):
        net.body(torch.zeros(1, 1, side, side, side))
