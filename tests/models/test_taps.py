from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.testing import assert_close

import models
from imaging.errors import InputError

IMAGE = torch.linspace(-1, 1, 2 * 16 * 24).reshape(2, 1, 16, 24)


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


def test_hooks_go_when_the_block_ends_even_by_an_error() -> None:
    net = models.create("enet")
    with models.tap(net):
        assert hooks(net) == 2
    assert hooks(net) == 0
    with pytest.raises(InputError), models.tap(net):
        net(IMAGE[:, :, :5])
    assert hooks(net) == 0


def test_each_forward_pass_fills_the_features_anew() -> None:
    net = models.create("espnet").eval()
    with models.tap(net, ["encoder"]) as features:
        net(IMAGE)
        first = features["encoder"]
        net(IMAGE + 1)
    assert list(features) == ["encoder"]
    assert not torch.equal(features["encoder"], first)
    net(IMAGE + 2)
    assert not torch.equal(features["encoder"], first)


def test_only_the_tapped_instance_is_watched() -> None:
    net = models.create("enet").eval()
    twin = copy.deepcopy(net)
    with models.tap(net) as features:
        twin(IMAGE)
    assert features == {}


def test_the_decoder_tap_is_what_the_classifier_reads() -> None:
    for name, classifier in [("enet", "classifier"), ("mobilenetv2", "head"), ("deeplabv3plus", "classifier")]:
        net = models.create(name).eval()
        with torch.no_grad(), models.tap(net, ["decoder", f"input of {classifier}"]) as features:
            net(IMAGE)
        assert_close(features["decoder"], features[f"input of {classifier}"], rtol=0, atol=0)


def test_the_decoder_tap_of_a_teacher_is_what_its_classifier_reads() -> None:
    net = models.create("pspnet", encoder="resnet18").eval()
    with torch.no_grad(), models.tap(net, ["decoder", "input of segmentation_head"]) as features:
        net(IMAGE)
    assert_close(features["decoder"], features["input of segmentation_head"], rtol=0, atol=0)


def test_one_tensor_serves_both_taps_of_a_network_without_a_decoder() -> None:
    net = models.create("mobilenetv2").eval()
    with models.tap(net) as features:
        net(IMAGE)
    assert features["encoder"] is features["decoder"]


def test_features_carry_gradient_to_the_layers_before_them() -> None:
    net = models.create("enet")
    with models.tap(net, ["encoder"]) as features:
        net(IMAGE)
    names, weights = zip(*net.named_parameters(), strict=True)
    loss = features["encoder"].square().sum()
    gradients: Sequence[torch.Tensor | None] = torch.autograd.grad(loss, weights, allow_unused=True)
    reached = {name.split(".")[1] for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    assert reached == {"initial", "down1", "stage1", "down2", "stage2", "stage3"}


def test_a_network_wrapped_by_fabric_is_tapped_the_same() -> None:
    net = models.create("enet").eval()
    wrapped = Fabric(accelerator="cpu", devices=1).setup_module(net)
    with torch.no_grad(), models.tap(net) as plain:
        net(IMAGE)
    with torch.no_grad(), models.tap(wrapped) as features:
        wrapped(IMAGE)
    assert_close(features, plain, rtol=0, atol=0)
    assert hooks(net) == 0


def test_any_module_of_any_network_can_be_tapped() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
    with models.tap(net, ["0", "input of 1", "1"]) as features:
        net(IMAGE)
    assert_close(features["1"], features["0"].relu())
    assert features["input of 1"] is features["0"]


def test_an_unknown_tap_offers_the_nearest_and_leaves_no_hook() -> None:
    net = models.create("enet")
    with pytest.raises(InputError, match=r"no tap or module `decodr`; did you mean `decoder`\? Taps: encoder, decoder"):
        models.tap(net, ["encoder", "decodr"]).__enter__()
    assert hooks(net) == 0
