"""Small teachers on smp's encoders: what is cut, and what a user is told."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.testing import assert_close

import models
from imaging.errors import InputError
from models.cost import cost
from models.encoders import cut_idle

IMAGE = torch.linspace(-1, 1, 3 * 32 * 48).reshape(3, 1, 32, 48)


@pytest.mark.parametrize(
    ("name", "parameters"), [("deeplabv3plus", 12_323_282), ("fcn", 11_760_578), ("pspnet", 834_722)]
)
def test_small_teachers_have_the_documented_size(name: str, parameters: int) -> None:
    assert cost(models.create(name, encoder="resnet18"), (32, 48)).parameters == parameters


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "efficientnet-b0", "mobileone_s0"])
def test_cutting_idle_stages_changes_no_answer(encoder: str) -> None:
    whole = smp.PSPNet(encoder, encoder_weights=None, in_channels=1, classes=2).eval()
    before = whole(IMAGE)
    size = sum(p.numel() for p in whole.parameters())
    cut_idle(whole, torch.zeros(1, 1, 64, 64))
    assert sum(p.numel() for p in whole.parameters()) < size / 2
    assert_close(whole(IMAGE), before, rtol=0, atol=0)
    assert not whole.training
    reached = torch.autograd.grad(whole(IMAGE).sum(), list(whole.parameters()), allow_unused=True)
    assert all(isinstance(gradient, Tensor) for gradient in reached)


@pytest.mark.parametrize("name", ["deeplabv3plus", "fcn", "pspnet"])
def test_an_unknown_encoder_offers_the_nearest(name: str) -> None:
    with pytest.raises(InputError, match=r"no encoder is called `resnet-18`; did you mean resnet18"):
        models.create(name, encoder="resnet-18")
    with pytest.raises(InputError, match=r"no encoder is called `tu-resnet19`; did you mean .*tu-resnet"):
        models.create(name, encoder="tu-resnet19")


def test_an_encoder_that_cannot_be_dilated_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"`fcn` cannot be built on encoder `densenet121` .*dilated"):
        models.create("fcn", encoder="densenet121")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_050"])
def test_weights_that_cannot_be_downloaded_are_an_input_error(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=f"weights of encoder `{encoder}` could not be downloaded; connect"):
        models.create("fcn", encoder=encoder, pretrained=True)
