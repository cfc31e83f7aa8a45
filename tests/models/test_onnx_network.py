"""A model of any framework behind a network's interface: what it gives, and every file that cannot be a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from imaging.errors import InputError
from models.contents import CONTENTS
from models.knowledge import told
from models.onnx_network import OnnxNetwork
from tests.models.onnx_files import ArgMax, Last, Nan, Tiny, Twice, export

SIZE = (16, 24)
IMAGES = torch.randn(5, 1, *SIZE, generator=torch.Generator().manual_seed(1))


def test_it_gives_the_models_own_logits_of_any_number_and_size_of_slices(tmp_path: Path) -> None:
    network, larger = Tiny(), torch.randn(3, 1, 29, 31)
    onnx_network = OnnxNetwork(export(network, tmp_path / "t.onnx"), classes=3, size=SIZE)
    assert_close(onnx_network(IMAGES), network(IMAGES).detach())
    assert_close(onnx_network(larger), network(larger).detach())
    assert (onnx_network.gives, onnx_network.classes) == ("logits", 3)
    assert onnx_network.weight_count == sum(weight.numel() for weight in network.parameters())


def test_a_batch_of_1_is_asked_slice_by_slice(tmp_path: Path) -> None:
    network = Tiny()
    path = export(network, tmp_path / "t.onnx", shape=(1, 1, *SIZE), free=())
    assert_close(OnnxNetwork(path, classes=3, size=SIZE)(IMAGES), network(IMAGES).detach())


def test_probabilities_become_their_logarithms(tmp_path: Path) -> None:
    network = Tiny()
    path = export(Tiny(after=nn.Softmax(dim=1)), tmp_path / "t.onnx")
    onnx_network = OnnxNetwork(path, classes=3, size=SIZE)
    assert onnx_network.gives == "probabilities"
    assert_close(onnx_network(IMAGES), network(IMAGES).log_softmax(1).detach())


def test_probabilities_of_0_stay_finite(tmp_path: Path) -> None:
    path = export(Tiny(after=nn.Sequential(nn.Hardtanh(-1, 1), Sharp(), nn.Softmax(dim=1))), tmp_path / "t.onnx")
    assert OnnxNetwork(path)(IMAGES).isfinite().all()


class Sharp(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return 1000 * logits


def test_an_output_of_another_size_is_resized_to_the_slice(tmp_path: Path) -> None:
    network = Tiny(stride=2)
    expected = F.interpolate(network(IMAGES), SIZE, mode="bilinear", align_corners=False).detach()
    assert_close(OnnxNetwork(export(network, tmp_path / "t.onnx"), classes=3, size=SIZE)(IMAGES), expected)


def test_it_tells_logits_alone_whatever_is_asked(tmp_path: Path) -> None:
    network = OnnxNetwork(export(Tiny(), tmp_path / "t.onnx"))
    masks = torch.zeros(5, *SIZE, dtype=torch.uint8)
    assert set(told(network, IMAGES, masks, classes=3, wants=CONTENTS)) == {"logits"}
    assert told(network, IMAGES, masks, classes=3, wants=["features", "contrast"]) == {}


def test_weights_in_a_file_beside_it_are_read_and_hashed(tmp_path: Path) -> None:
    """Of the same file name and graph, other weights are another teacher."""
    whole = export(Tiny(), tmp_path / "whole.onnx")
    model = onnx.load(whole)
    onnx.save(model, tmp_path / "t.onnx", save_as_external_data=True, location="t.data", size_threshold=0)
    apart = OnnxNetwork(tmp_path / "t.onnx")
    assert_close(apart(IMAGES), OnnxNetwork(whole)(IMAGES))
    content = bytearray((tmp_path / "t.data").read_bytes())
    content[3] ^= 1
    (tmp_path / "t.data").write_bytes(content)
    assert OnnxNetwork(tmp_path / "t.onnx").weights_hash != apart.weights_hash
    (tmp_path / "t.data").unlink()
    with pytest.raises(InputError, match="is no ONNX model that can be read") as caught:
        OnnxNetwork(tmp_path / "t.onnx")
    assert "t.data" in str(caught.value.where)
    assert "t.data" not in f"{caught.value.what} {caught.value.fix}", "this leaves a site"


@pytest.mark.parametrize(
    ("network", "how", "words"),
    [
        (Tiny(), {"shape": (2, 1, 32, 40), "free": (0,)}, "takes slices of 32 × 40, the study prepares .* 16 × 24"),
        (Tiny(), {"shape": (4, 1, *SIZE), "free": (2, 3)}, r"takes \(4, 1, free, free\) of float, not slices"),
        (Tiny(channels=3), {"shape": (2, 3, *SIZE)}, r"takes \(free, 3, free, free\) of float.*one channel"),
        (Tiny(2), {}, "tells 2 classes, the study has 3, the background included"),
        (Tiny(1), {}, r"gives \(2, 1, 16, 24\) for two slices.*a channel for each class"),
        (Tiny(after=Last()), {}, "tells 16 classes, the study has 3, .* in the second place"),
        (Tiny(after=ArgMax()), {}, "of int64, not logits.*without its last step"),
        (Tiny(after=Twice()), {}, r"has 2 outputs \(out, aux\), not one; export it with one output alone"),
        (Tiny(after=Nan()), {}, "gives NaN or infinity for noise"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_a_teacher_is_refused(
    network: nn.Module, how: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = export(network, tmp_path / "t.onnx", **how)
    with pytest.raises(InputError, match=words) as caught:
        OnnxNetwork(path, classes=3, size=SIZE)
    assert caught.value.where == path
    assert caught.value.fix


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "cannot be loaded"),
        (b"\x08 not a model", "can be read"),
        ("cut", "cannot be|can be"),
    ],
)
def test_a_missing_or_damaged_file_is_told(content: bytes | str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    if content is not None:
        whole = export(Tiny(), path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(InputError, match=words):
        OnnxNetwork(path, classes=3, size=SIZE)


def test_a_model_that_breaks_on_the_studys_size_is_told(tmp_path: Path) -> None:
    class Halved(nn.Module):
        """Skips from full to half the size, which odd sizes do not fit."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            down = F.max_pool2d(images, 2)
            return torch.cat([images, F.interpolate(down, scale_factor=2)], dim=1)

    path = export(Halved(), tmp_path / "t.onnx")
    assert OnnxNetwork(path, size=(16, 24)).classes == 2
    with pytest.raises(InputError, match=r"t.onnx \(.+\): the model cannot be run on slices of 17 × 23; export it for"):
        OnnxNetwork(path, size=(17, 23))


def test_a_model_that_gives_nan_on_a_slice_is_told(tmp_path: Path) -> None:
    network = OnnxNetwork(export(Tiny(), tmp_path / "t.onnx"))
    with pytest.raises(InputError, match="gave NaN or infinity"):
        network(torch.full((1, 1, *SIZE), torch.nan))
