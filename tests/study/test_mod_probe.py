from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn
from torch.testing import assert_close

from study.learners.probe import Probe, output_layer

IMAGES = torch.linspace(-1, 1, 2 * 4 * 6 * 10).reshape(2, 1, 4, 6, 10)
MASKS = (torch.arange(2 * 240) % 3).reshape(2, 4, 6, 10)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The suite shares its cores, and these maps are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3), nn.Dropout(0.5), nn.Conv3d(3, 3, 1), nn.Softplus()
    )


def test_only_the_new_output_layer_learns_and_the_rest_rests() -> None:
    student = net()
    before = copy.deepcopy(student)
    probe = Probe(student, classes=3, size=(4, 6, 10), in_channels=1).train()
    assert probe.output == "3"
    assert probe.frozen == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert not torch.equal(student.state_dict()["3.weight"], before.state_dict()["3.weight"]), "made anew"
    optimiser = torch.optim.Adam([weight for weight in probe.parameters() if weight.requires_grad], lr=0.1)
    losses = []
    for _ in range(12):
        terms = probe.loss(IMAGES, MASKS)
        assert list(terms) == ["dice", "focal"]
        total = torch.stack(list(terms.values())).sum()
        torch.autograd.backward(total)
        losses.append(float(total.detach()))
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < losses[0]
    for name, value in before.state_dict().items():
        assert torch.equal(student.state_dict()[name], value) is not name.startswith("3."), name
    assert probe.shipped is student


def test_the_output_layer_is_the_last_in_a_pass_that_gives_the_classes() -> None:
    student = DynUNet(
        3, 1, 3, kernel_size=3 * [3], strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[4, 6, 8], res_block=True
    )
    assert output_layer(student, 3, torch.zeros(1, 1, 8, 8, 8)) == "output_block.conv.conv"
    assert all(not module._forward_hooks for module in student.modules())


def test_layers_count_in_the_order_of_the_pass_and_idle_ones_do_not() -> None:
    class Twisted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body, self.idle = nn.Conv2d(3, 2, 1), nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(x))
            return out

    assert output_layer(Twisted(), 2, torch.zeros(1, 1, 3, 5)) == "head"
    with pytest.raises(ValueError, match="no layer of Twisted gives 7 channels"):
        output_layer(Twisted(), 7, torch.zeros(1, 1, 3, 5))


def test_regions_are_probed_too() -> None:
    probe = Probe(net(), classes=3, size=(4, 6, 10), in_channels=1, regions=((1, 2), (2,)))
    terms = probe.loss(IMAGES, MASKS)
    other = Probe(net(), classes=3, size=(4, 6, 10), in_channels=1).loss(IMAGES, MASKS)
    assert not torch.isclose(terms["focal"], other["focal"])
    assert_close(terms["dice"], terms["dice"].clamp(0, 1))
