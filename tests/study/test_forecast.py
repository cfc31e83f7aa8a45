from __future__ import annotations

import pytest

import models
from imaging.errors import InputError
from models.memory import training_bytes
from study import forecast, learners
from study.forecast import check_memory, memory_of
from study.mod_table import Mod
from study.tables import Teacher


def test_a_patch_beyond_memory_is_refused_with_the_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.create("dynunet", 1, 3, size=(32, 32, 32), width=4)
    monkeypatch.setattr(forecast, "memory_of", lambda device: 2 * 2**30)
    check_memory(network, (32, 32, 32), 2)
    words = (
        "a step of 16 × 128 × 128 × 128 through `dynunet` needs at least 7.8 GiB, and there are 2.0 GiB; "
        "take a batch of 4 at most"
    )
    with pytest.raises(InputError, match=words):
        check_memory(network, (128, 128, 128), 16)
    with pytest.raises(InputError, match=r"choose a smaller `preprocess.patch`"):
        check_memory(network, (256, 256, 256), 2)


def test_what_trains_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.create("dynunet", 1, 3, size=(32, 32, 32), width=4)
    alone = training_bytes(network, (32, 32, 32), 2)
    shown = learners.Shown((32, 32, 32), 1, 3)
    tables = Teacher(mod=Mod(stage="E4", heads=(64, 16, 8), predictor=False))
    mod = learners.create("mod", network, tables, shown, steps=10)
    learned = sum(weight.numel() for weight in mod.parameters() if weight.requires_grad) - sum(
        weight.numel() for weight in network.parameters()
    )
    averaged = sum(weight.numel() for weight in mod.parameters() if not weight.requires_grad)
    assert learned > 0
    assert averaged > learned, "the network's average and that of the heads"
    needed = alone + 16 * learned + 4 * averaged
    monkeypatch.setattr(forecast, "memory_of", lambda device: needed)
    check_memory(network, (32, 32, 32), 2, beside=mod)
    monkeypatch.setattr(forecast, "memory_of", lambda device: needed - 1)
    check_memory(network, (32, 32, 32), 2)
    with pytest.raises(InputError, match=r"choose a smaller `preprocess.patch`"):
        check_memory(network, (32, 32, 32), 2, beside=mod)


def test_this_machine_says_what_it_has() -> None:
    there = memory_of("cpu")
    assert there is not None
    assert 2**30 < there < 2**50
