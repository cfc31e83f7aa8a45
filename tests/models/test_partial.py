from __future__ import annotations

import copy
from typing import TypeVar

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.testing import assert_close

import models
from imaging.errors import InputError
from models.network import Network
from models.partial import statistics_kept, up_to

VOLUMES = torch.linspace(-1, 1, 2 * 4 * 6 * 10).reshape(2, 1, 4, 6, 10)


L = TypeVar("L", bound=nn.Module)


class Counted(nn.Module):
    """Knows how often it was passed."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x


def net() -> Network:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1),
        nn.BatchNorm3d(3),
        nn.ReLU(),
        nn.Conv3d(3, 5, 2, 2),
        Counted(),
        nn.Conv3d(5, 2, 1),
    )
    return Network(body, name="toy", in_channels=1, taps={"encoder": "3"}, multiple=2, dims=3)


def layer(toy: Network, name: str, kind: type[L]) -> L:
    """That module of its body."""
    found = toy.body.get_submodule(name)
    assert isinstance(found, kind)
    return found


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@pytest.mark.parametrize("path", ["encoder", "3", "input of 4"])
def test_it_gives_what_a_tap_gives_and_spares_the_rest(path: str) -> None:
    toy = net().eval()
    with models.tap(toy, [path]) as features:
        toy(VOLUMES)
    layer(toy, "4", Counted).passes = 0
    assert_close(up_to(toy, path, VOLUMES), features[path], rtol=0, atol=0)
    assert layer(toy, "4", Counted).passes == 0
    assert hooks(toy) == 0


def test_gradient_comes_to_what_lies_before_and_to_the_image() -> None:
    toy, images = net(), VOLUMES.clone().requires_grad_()
    torch.autograd.backward(up_to(toy, "encoder", images).square().sum())
    assert images.grad is not None
    assert {name for name, weight in toy.named_parameters() if weight.grad is not None} == {
        f"body.{layer}.{kind}" for layer in (0, 1, 3) for kind in ("weight", "bias")
    }


def test_no_hook_stays_where_the_pass_fails_or_the_path_is_wrong() -> None:
    toy = net()
    with pytest.raises(InputError, match="it takes"):
        up_to(toy, "encoder", VOLUMES[:, :, 0])
    with pytest.raises(InputError, match="did you mean `encoder`"):
        up_to(toy, "encodr", VOLUMES)
    assert hooks(toy) == 0


def test_a_module_that_no_pass_comes_by_is_told() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Conv3d(1, 2, 1), nn.Conv3d(1, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    idle = Idle()
    with pytest.raises(ValueError, match="Idle does not come by `spare`"):
        up_to(idle, "spare", VOLUMES)
    assert hooks(idle) == 0


def test_a_network_wrapped_by_fabric_is_passed_the_same() -> None:
    toy = net().eval()
    wrapped = Fabric(accelerator="cpu", devices=1).setup_module(toy)
    assert_close(up_to(wrapped, "encoder", VOLUMES), up_to(toy, "encoder", VOLUMES), rtol=0, atol=0)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm3d(3), nn.BatchNorm3d(3, momentum=None), nn.InstanceNorm3d(3, track_running_stats=True)]
)
def test_statistics_stay_and_the_output_is_that_of_training(norm: nn.Module) -> None:
    features = torch.randn(2, 3, 4, 5, 6)
    bare = copy.deepcopy(norm)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with statistics_kept(norm):
        output = norm(features)
    assert_close(output, bare(features), rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in bare.state_dict().items())


def test_a_pass_that_counts_and_one_that_does_not_go_back_together() -> None:
    toy, twin = net(), net()
    kept = toy(VOLUMES)
    with statistics_kept(toy):
        spared = toy(2 * VOLUMES)
    torch.autograd.backward(kept.sum() + spared.square().sum())
    torch.autograd.backward(twin(VOLUMES).sum() + twin(2 * VOLUMES).square().sum())
    for own, other in zip(toy.parameters(), twin.parameters(), strict=True):
        assert_close(own.grad, other.grad)
    assert layer(toy, "1", nn.BatchNorm3d).num_batches_tracked == 1
    with pytest.raises(RuntimeError, match="stop"), statistics_kept(toy):
        raise RuntimeError("stop")
    assert layer(toy, "1", nn.BatchNorm3d).num_batches_tracked == 1


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("unetr", {"width": 4, "hidden": 48}, 32),
        ("swin-unetr", {"width": 12}, 64),
        ("unetr++", {"width": 8}, 64),
        ("segmamba", {"width": 8, "hidden": 16}, 32),
    ],
)
def test_what_leads_beside_the_bottom_is_left_out_and_comes_back(name: str, options: dict[str, int], side: int) -> None:
    network = models.create(name, 1, 2, size=(side,) * 3, **options).eval()
    images, passed = torch.rand(1, 1, side, side, side), []
    assert network.bottom is not None
    with torch.no_grad(), models.tap(network, [network.bottom.path]) as features:
        before = network(images)
        for path in network.beside:
            layers = network.body.get_submodule(path).modules()
            first = next(layer for layer in layers if [*layer.parameters(recurse=False)])
            first.register_forward_hook(lambda *_: passed.append(1))
        seen = up_to(network, network.bottom.path, images)
        assert not passed
        assert_close(seen, features[network.bottom.path], rtol=0, atol=0)
        assert_close(network(images), before, rtol=0, atol=0)
    assert passed
    for path in network.beside[-1:]:
        assert up_to(network, path, images).shape[0] == 1
