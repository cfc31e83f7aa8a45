"""One contract, run over every network of slices and over small teachers on two encoders."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import models
from imaging.errors import InputError
from models.enet import unpool
from models.knowledge import enlarged

N, C, H, W = 3, 5, 32, 48
ENCODERS = ("", "resnet18", "tu-mobilenetv3_small_050")
VARIANTS = [
    (name, encoder)
    for encoder in ENCODERS
    for name in models.names(dims=2)
    if not encoder or models.spec(name).with_encoder
]
# (channels, stride) of the encoder's and of the decoder's tap; section "taps" of docs/models.md.
TAPS = {
    ("espnet", ""): ((256, 8), (C, 2)),
    ("enet", ""): ((128, 8), (16, 2)),
    ("mobilenetv2", ""): ((1280, 8), (1280, 8)),
    ("unet", ""): ((512, 16), (64, 2)),
    ("pspnet", ""): ((2048, 8), (512, 8)),
    ("fcn", ""): ((2048, 8), (512, 8)),
    ("deeplabv3plus", ""): ((2048, 8), (256, 4)),
    ("resnext101", ""): ((2048, 32), (2048, 32)),
    ("deeplabv3plus", "resnet18"): ((512, 16), (256, 4)),
    ("fcn", "resnet18"): ((512, 8), (128, 8)),
    ("pspnet", "resnet18"): ((128, 8), (512, 8)),
    ("deeplabv3plus", "tu-mobilenetv3_small_050"): ((288, 16), (256, 4)),
    ("fcn", "tu-mobilenetv3_small_050"): ((288, 8), (72, 8)),
    ("pspnet", "tu-mobilenetv3_small_050"): ((16, 8), (512, 8)),
}


def create(name: str, encoder: str) -> nn.Module:
    return models.create(name, 1, C, encoder=encoder) if encoder else models.create(name, 1, C)


@dataclass
class Trained:
    """A network after one forward and one backward pass in training, then in evaluation."""

    name: str
    encoder: str
    net: nn.Module
    images: Tensor
    logits: Tensor
    features: dict[str, Tensor]
    without_gradient: list[str]


@pytest.fixture(scope="module", params=VARIANTS, ids="-".join)
def trained(request: pytest.FixtureRequest) -> Trained:
    name, encoder = request.param
    torch.manual_seed(7)
    net = create(name, encoder)
    images = torch.randn(N, 1, H, W)
    with models.tap(net) as features:
        logits = net(images)
    keys, weights = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad((logits * torch.randn_like(logits)).sum(), weights)
    unreached = [key for key, gradient in zip(keys, gradients, strict=True) if not gradient.any()]
    return Trained(name, encoder, net.eval(), images, logits.detach(), features, unreached)


def test_logits_have_the_size_of_the_image(trained: Trained) -> None:
    assert trained.logits.shape == (N, C, H, W)
    assert trained.logits.isfinite().all()


def test_taps_have_the_documented_shapes(trained: Trained) -> None:
    expected = TAPS[trained.name, trained.encoder]
    for tap, (channels, stride) in zip(("encoder", "decoder"), expected, strict=True):
        assert trained.features[tap].shape == (N, channels, -(-H // stride), -(-W // stride)), tap
        assert trained.features[tap].isfinite().all()


def test_coarse_logits_enlarged_are_the_logits(trained: Trained) -> None:
    ends = models.spec(trained.name).build_with({"encoder": trained.encoder} if trained.encoder else {}).ends
    assert (ends is None) == (trained.name in {"unet", "espnet", "enet", "mobilenetv2"})
    if ends:
        with torch.no_grad(), models.tap(trained.net, [ends.of]) as features:
            logits = trained.net(trained.images)
        assert features[ends.of].shape[2:] == ends.grid((H, W))
        assert torch.equal(enlarged(features[ends.of], (H, W), align_corners=ends.align_corners), logits)


def test_every_parameter_learns(trained: Trained) -> None:
    assert trained.without_gradient == []


def test_weights_survive_a_state_dict(trained: Trained) -> None:
    other = create(trained.name, trained.encoder).eval()
    other.load_state_dict(trained.net.state_dict())
    with torch.no_grad():
        assert_close(other(trained.images), trained.net(trained.images), rtol=0, atol=0)


def test_evaluation_repeats_itself_and_keeps_slices_apart(trained: Trained) -> None:
    with torch.no_grad():
        whole, again = trained.net(trained.images), trained.net(trained.images)
        alone = trained.net(trained.images[1:2])
    assert_close(again, whole, rtol=0, atol=0)
    assert_close(alone, whole[1:2], rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def test_a_size_that_does_not_fit_is_refused_with_sizes_that_do(trained: Trained) -> None:
    build = models.spec(trained.name).build_with({"encoder": trained.encoder} if trained.encoder else {})
    image = torch.randn(1, 1, 37, 53)
    if build.multiple == 1:
        with torch.no_grad():
            assert trained.net(image).shape == (1, C, 37, 53)
        return
    fits = {8: "such as 32 × 48 or 40 × 56", 16: "such as 32 × 48 or 48 × 64"}[build.multiple]
    with pytest.raises(InputError, match=f"`{trained.name}` was given slices of 37 × 53; .*{fits}"):
        trained.net(image)


def test_a_size_below_the_smallest_names_only_what_fits() -> None:
    with pytest.raises(InputError, match=r"such as 8 × 16$"):
        models.create("enet")(torch.randn(1, 1, 5, 16))


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (1, 16, 24)])
def test_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"`espnet` was given images of shape \(.*; it takes \(N, 1, H, W\)"):
        models.create("espnet")(torch.randn(shape))


@pytest.mark.parametrize("name", ["espnet", "enet", "mobilenetv2"])
def test_other_channels_can_be_asked_for(name: str) -> None:
    net = models.create(name, in_channels=2, classes=3).eval()
    assert net(torch.randn(1, 2, 16, 24)).shape == (1, 3, 16, 24)


@pytest.mark.parametrize("name", ["espnet", "enet", "mobilenetv2"])
def test_a_student_is_copied_whole(name: str) -> None:
    net = models.create(name).eval()
    image = torch.randn(1, 1, 16, 24)
    assert_close(copy.deepcopy(net)(image), net(image), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["espnet", "enet", "mobilenetv2"])
def test_one_seed_gives_one_gradient_in_torchs_deterministic_mode(name: str) -> None:
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            torch.manual_seed(11)
            net = models.create(name)
            loss = net(torch.randn(3, 1, 16, 24)).square().mean()
            gradients.append(torch.autograd.grad(loss, list(net.parameters())))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_unpooling_puts_each_maximum_back() -> None:
    image = torch.randn(3, 5, 14, 22)
    pooled, where = F.max_pool2d_with_indices(image, (2, 2))
    assert_close(unpool(pooled, where), F.max_unpool2d(pooled, where, [2, 2]), rtol=0, atol=0)
