from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import models
from imaging.errors import InputError
from models.network import Network
from study.learners.probe import Probe, output_layers

IMAGES = torch.linspace(-1, 1, 2 * 4 * 6 * 10).reshape(2, 1, 4, 6, 10)
MASKS = (torch.arange(2 * 240) % 3).reshape(2, 4, 6, 10)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The suite shares its cores, and these maps are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SMALL = {
    "dynunet": {"width": 4},
    "vnet": {},
    "unetr": {"width": 4, "hidden": 48},
    "swin-unetr": {"width": 12},
    "unetr++": {"width": 8},
    "segmamba": {"width": 8, "hidden": 16},
    "vit-autoencoder": {"patch": 4, "hidden": 48, "layers": 1},
}
"""Networks of volumes as small as they come."""


def net() -> Network:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Dropout(0.5), nn.Conv3d(4, 3, 1), nn.Softplus()
    )
    return Network(body, name="toy", in_channels=1, taps={"decoder": "2"}, dims=3)


def test_only_the_new_output_layer_learns_and_the_rest_rests() -> None:
    student = net()
    before = copy.deepcopy(student)
    probe = Probe(student, classes=3, size=(4, 6, 10), in_channels=1).train()
    assert probe.output == ["body.3"]
    assert probe.frozen == ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]
    assert not torch.equal(student.state_dict()["body.3.weight"], before.state_dict()["body.3.weight"]), "made anew"
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
        assert torch.equal(student.state_dict()[name], value) is not name.startswith("body.3."), name
    assert probe.shipped is student


@pytest.mark.parametrize("name", SMALL)
def test_what_is_made_anew_reads_features_and_gives_the_classes(name: str) -> None:
    side = 64 if name in ("swin-unetr", "unetr++") else 32
    student = models.create(name, 1, 2, size=(side,) * 3, **SMALL[name])
    output = output_layers(student, 2, torch.zeros(1, 1, *(side,) * 3))
    first = student.get_submodule(output[0])
    assert first.get_parameter("weight").shape[0 if isinstance(first, nn.ConvTranspose3d) else 1] > 2
    assert all("decoder" not in path for path in output), "what comes before stays"
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in student.modules())


@pytest.mark.parametrize(("name", "first"), [("unet", "body.model.2.0.conv"), ("enet", "body.classifier")])
def test_slices_are_probed_too(name: str, first: str) -> None:
    output = output_layers(models.create(name, 1, 2), 2, torch.zeros(1, 1, 64, 64))
    assert output[0].startswith(first)


def test_a_decoder_of_the_classes_has_nothing_to_probe() -> None:
    with pytest.raises(InputError, match="`espnet` has no features that could be probed: its decoder's last are of"):
        Probe(models.create("espnet", 1, 2), classes=2, size=(32, 32), in_channels=1)


def test_layers_count_in_the_order_of_the_pass_and_idle_ones_do_not() -> None:
    class Twisted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body, self.idle = nn.Conv2d(3, 2, 1), nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(x))
            return out

    toy = Network(Twisted(), name="toy", in_channels=1, taps={"decoder": "input of head"})
    assert output_layers(toy, 2, torch.zeros(1, 1, 3, 5)) == ["body.head"]


def test_regions_are_probed_too() -> None:
    probe = Probe(net(), classes=3, size=(4, 6, 10), in_channels=1, regions=((1, 2), (2,)))
    terms = probe.loss(IMAGES, MASKS)
    other = Probe(net(), classes=3, size=(4, 6, 10), in_channels=1).loss(IMAGES, MASKS)
    assert not torch.isclose(terms["focal"], other["focal"])
    assert_close(terms["dice"], terms["dice"].clamp(0, 1))
