"""One contract, run over every network of volumes at a small size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.unetr import UNETR
from torch import Tensor, nn
from torch.testing import assert_close

import models
from imaging.errors import InputError
from models.network import Network
from models.registry import Stage
from models.taps import INPUT_OF

N, INPUTS, C = 1, 2, 3
SIZE = (32, 16, 16)
LETTERS = ["E1", "E2", "E3", "E4", "D4", "D3", "D2", "D1"]
U = (1, 2, 4, 8, 16, 8, 4, 2)


@dataclass
class Small:
    """A network at a size that takes a second, and what DSD's table of taps, section 2, makes of it."""

    size: tuple[int, int, int]
    options: dict[str, int]
    channels: tuple[int, ...]
    taps: tuple[tuple[int, int], tuple[int, int]]
    strides: tuple[int, ...] = U
    bottom: tuple[int, int] | None = None
    """Where it is not D4."""
    idle: tuple[str, ...] = ()
    """Biases that a norm takes away: what reaches them is rounding."""


SMALL = {
    "dynunet": Small((32, 16, 48), {"width": 4}, (4, 8, 16, 32, 64, 32, 16, 8), ((64, 16), (4, 1))),
    "vnet": Small(
        (32, 16, 16),
        {},
        (16, 32, 64, 128, 256, 256, 128, 64),
        ((256, 16), (32, 1)),
        idle=("up_conv.bias",),
    ),
    "unetr": Small((32, 16, 48), {"width": 4, "hidden": 96}, (4, 8, 16, 32, 96, 32, 16, 8), ((96, 16), (4, 1))),
    "swin-unetr": Small(
        (64, 32, 32), {"width": 12}, (12, 12, 24, 48, 96, 48, 24, 12), ((192, 32), (12, 1)), bottom=(192, 32)
    ),
    "swin-unetr-v2": Small(
        (32, 32, 64), {"width": 12}, (12, 12, 24, 48, 96, 48, 24, 12), ((192, 32), (12, 1)), bottom=(192, 32)
    ),
    "unetr++": Small(
        (64, 32, 32),
        {"width": 8},
        (4, 8, 16, 32, 64, 32, 16, 8),
        ((64, 32), (4, 1)),
        strides=(1, 4, 8, 16, 32, 16, 8, 4),
    ),
    "segmamba": Small(
        (32, 16, 16),
        {"width": 8, "hidden": 80},
        (8, 16, 32, 64, 80, 64, 32, 16),
        ((80, 16), (8, 1)),
        idle=(".wide.0.0.bias", ".wide.1.0.bias", ".narrow.0.bias", ".last.0.bias"),
    ),
    "vit-autoencoder": Small(
        (32, 16, 48), {"hidden": 96, "patch": 4, "layers": 2}, (), ((96, 4), (16, 2)), bottom=(96, 4)
    ),
}


@dataclass
class Trained:
    """A network after one forward and one backward pass in training."""

    name: str
    small: Small
    net: Network
    images: Tensor
    logits: Tensor
    features: dict[str, Tensor]
    fired: Counter[str]
    gradients: dict[str, Tensor | None]


def create(name: str) -> Network:
    return models.create(name, INPUTS, C, size=SMALL[name].size, **SMALL[name].options)


def count(fired: Counter[str], path: str, module: nn.Module) -> None:
    """Count the module's passes under its path."""
    if path.startswith(INPUT_OF):
        module.register_forward_pre_hook(lambda *_: fired.update([path]))
    else:
        module.register_forward_hook(lambda *_: fired.update([path]))


@pytest.fixture(scope="module", params=models.names(dims=3))
def trained(request: pytest.FixtureRequest) -> Trained:
    name, small = request.param, SMALL[request.param]
    torch.manual_seed(7)
    net = create(name)
    images, fired = torch.randn(N, INPUTS, *small.size), Counter[str]()
    bottom = net.bottom
    assert bottom is not None
    paths = [*(stage.path for stage in net.stages.values()), bottom.path]
    for path in set(paths):
        count(fired, path, net.body.get_submodule(path.removeprefix(INPUT_OF)))
    with models.tap(net, ["encoder", "decoder", *paths]) as features:
        logits = net(images)
    keys, weights = zip(*net.named_parameters(), strict=True)
    loss = (logits * torch.randn_like(logits)).sum() + sum(feature.square().mean() for feature in features.values())
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return Trained(name, small, net, images, logits.detach(), features, fired, dict(zip(keys, gradients, strict=True)))


def test_every_network_of_volumes_is_tried() -> None:
    assert set(SMALL) == set(models.names(dims=3))
    assert {models.spec(name).role for name in SMALL} == {"either"}


def test_logits_have_the_size_of_the_patch(trained: Trained) -> None:
    assert trained.logits.shape == (N, C, *trained.small.size)
    assert trained.logits.isfinite().all()


def place(feature: Tensor, size: tuple[int, ...]) -> tuple[int, int]:
    """Channels and stride of a feature map, the stride equal along each axis."""
    (stride,) = {side // cells for side, cells in zip(size, feature.shape[2:], strict=True)}
    return feature.shape[1], stride


def test_stages_have_the_published_channels_and_strides(trained: Trained) -> None:
    stages, small = trained.net.stages, trained.small
    assert list(stages) == (LETTERS if small.channels else [])
    found = [place(trained.features[stage.path], small.size) for stage in stages.values()]
    assert found == list(zip(small.channels, small.strides if small.channels else (), strict=True))
    assert [stage.stride for stage in stages.values()] == [stride for _, stride in found]


def test_each_stage_fires_once_a_pass(trained: Trained) -> None:
    assert set(trained.fired.values()) == {1}


def test_encoder_stages_feed_the_decoder_stages_of_their_size(trained: Trained) -> None:
    if not trained.net.stages:
        return
    order = list(trained.fired)
    when = {name: order.index(stage.path) for name, stage in trained.net.stages.items()}
    assert all(when[encoder] < when[decoder] for encoder, decoder in (("E4", "D3"), ("E3", "D2"), ("E2", "D1")))
    assert when["D4"] < when["D3"] < when["D2"] < when["D1"]


def test_the_bottom_and_both_taps_are_maps_of_the_documented_shape(trained: Trained) -> None:
    small, bottom = trained.small, trained.net.bottom
    assert bottom is not None
    expected = small.bottom or (small.channels[4], small.strides[4])
    assert place(trained.features[bottom.path], small.size) == expected
    assert bottom.stride == expected[1]
    assert tuple(place(trained.features[tap], small.size) for tap in ("encoder", "decoder")) == small.taps


def test_every_parameter_learns_but_biases_before_a_norm(trained: Trained) -> None:
    unreached = [key for key, gradient in trained.gradients.items() if gradient is None or not gradient.any()]
    assert [key for key in unreached if not key.endswith(trained.small.idle or "never")] == []
    assert all(gradient.isfinite().all() for gradient in trained.gradients.values() if gradient is not None)
    for end in trained.small.idle:
        assert any(key.endswith(end) for key in trained.gradients)


def test_no_weight_travels_twice_and_all_travel(trained: Trained) -> None:
    state = trained.net.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert all(key.startswith("body.") for key in state)
    other = create(trained.name).eval()
    other.load_state_dict(state)
    with torch.no_grad():
        assert_close(other(trained.images), trained.net.eval()(trained.images), rtol=0, atol=0)


def test_a_patch_that_does_not_fit_is_refused_with_sizes_that_do(trained: Trained) -> None:
    multiple = models.spec(trained.name).build_with(trained.small.options).multiple
    fits = {4: "36 × 52 × 20 or 40 × 56 × 24", 16: "32 × 48 × 16 or 48 × 64 × 32", 32: "64 × 64 × 32"}[multiple]
    words = f"`{trained.name}` was given patches of 37 × 53 × 21; depth, .* multiples of {multiple}.* such as {fits}$"
    with pytest.raises(InputError, match=words.replace("++", r"\+\+")):
        trained.net(torch.randn(1, INPUTS, 37, 53, 21))


def test_a_fixed_network_says_which_size_it_was_built_for(trained: Trained) -> None:
    fixed = models.spec(trained.name).build.fixed_size
    assert fixed == (trained.name in {"unetr", "unetr++", "vit-autoencoder"})
    assert trained.net.built_for == (trained.small.size if fixed else None)
    if fixed:
        sizes = " × ".join(map(str, trained.small.size))
        with pytest.raises(InputError, match=f"was given patches of 32 × 32 × 32; .* built for {sizes}; show it"):
            trained.net(torch.randn(1, INPUTS, 32, 32, 32))


def test_images_of_other_axes_or_channels_are_refused(trained: Trained) -> None:
    for shape in [(1, INPUTS, 64, 64), (1, INPUTS + 1, *trained.small.size)]:
        with pytest.raises(InputError, match=r"given images of shape \(.*; it takes \(N, 2, D, H, W\)"):
            trained.net(torch.randn(shape))


@pytest.mark.parametrize("name", ["dynunet", "unetr", "segmamba", "vit-autoencoder"])
def test_one_seed_gives_one_gradient_in_torchs_deterministic_mode(name: str) -> None:
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            torch.manual_seed(11)
            net = create(name)
            loss = net(torch.randn(1, INPUTS, *SMALL[name].size)).square().mean()
            gradients.append(torch.autograd.grad(loss, list(net.parameters())))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        (
            "dynunet",
            {"width": 4},
            partial(DynUNet, 3, 1, 3, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, [4, 8, 16, 32, 64], norm_name="instance"),
        ),
        ("unetr", {"width": 4, "hidden": 96}, partial(UNETR, 1, 3, SIZE, 4, 96, 384, 6)),
    ],
)
def test_what_is_cut_of_monais_networks_was_never_called(
    name: str, options: dict[str, int], theirs: Callable[..., nn.Module]
) -> None:
    image = torch.randn(1, 1, *SIZE)
    torch.manual_seed(3)
    whole = theirs(res_block=True).eval()
    torch.manual_seed(3)
    ours = models.create(name, 1, 3, size=SIZE, **options).eval()
    with torch.no_grad():
        assert_close(ours(image), whole(image), rtol=0, atol=0)


def test_the_tokens_of_the_auto_encoder_are_read_as_the_grid_that_they_are() -> None:
    net = models.create("vit-autoencoder", 1, 3, size=(16, 8, 12), hidden=48, patch=4, layers=1).eval()
    with torch.no_grad(), models.tap(net, ["encoder", "net.norm"]) as features:
        net(torch.randn(1, 1, 16, 8, 12))
    assert features["encoder"].shape == (1, 48, 4, 2, 3)
    assert_close(features["encoder"][0, :, 3, 1, 2], features["net.norm"][0, -1])
    assert_close(features["encoder"][0, :, 1, 0, 2], features["net.norm"][0, 8])


def test_the_u_net_of_slices_has_stages_too() -> None:
    net = models.create("unet", 1, 3, width=4).eval()
    assert (list(net.stages), net.dims, net.shares_heads) == (LETTERS, 2, False)
    assert net.bottom == net.stages["D4"] == Stage("model" + 4 * ".1.submodule", 16)
    with torch.no_grad(), models.tap(net, [stage.path for stage in net.stages.values()]) as features:
        net(torch.randn(1, 1, 32, 48))
    found = [place(features[stage.path], (32, 48)) for stage in net.stages.values()]
    assert found == [(4, 2), (8, 4), (16, 8), (32, 16), (64, 16), (16, 8), (8, 4), (4, 2)]
    assert [stage.stride for stage in net.stages.values()] == [stride for _, stride in found]
    assert models.create("enet").stages == {}
