"""MOD as a learner: what it descends, what it leaves behind, and that a killed training goes on bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import models
from imaging.errors import InputError
from models.entry import Stage
from models.network import Network
from models.partial import up_to
from study.learners.masking import patches_of
from study.learners.mod import Mod, stage_of
from study.learners.tokenizer import warmth
from study.mod_table import Mod as Table

SIZE = (12, 8, 20)
OFF: dict[str, Any] = {"tokenizer": False, "predictor": False}
ALL = {"dice", "focal", "patch", "token", "rebuild"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The suite shares its cores, and these maps are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Toy(nn.Module):
    """A U of one level, with batch norm and dropout; its bottom is at 1/4, one cell 4 voxels wide."""

    def __init__(self, classes: int, dims: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv3d, nn.BatchNorm3d) if dims == 3 else (nn.Conv2d, nn.BatchNorm2d)
        self.stem = nn.Sequential(conv(2, 5, 3, padding=1), norm(5), nn.ReLU())
        self.lower = conv(5, 6, 2, 2)
        self.deep = nn.Sequential(conv(6, 7, 2, 2), norm(7))
        self.drop = nn.Dropout(0.3)
        self.last = conv(12, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        deep = self.drop(self.deep(self.lower(fine)))
        out: Tensor = self.last(torch.cat([fine, nn.functional.interpolate(deep, x.shape[2:])], 1))
        return out


def net(classes: int = 3, dims: int = 3) -> Network:
    torch.manual_seed(5)
    stages = {"E2": Stage("lower", 2), "E3": Stage("deep", 4)}
    return Network(
        Toy(classes, dims), name="toy", in_channels=2, taps={}, multiple=4, dims=3 if dims == 3 else 2,
        stages=stages, bottom=stages["E3"],
    )  # fmt: skip


def batch(n: int = 2, size: tuple[int, ...] = SIZE) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(n)
    return torch.randn(n, 2, *size, generator=draws), torch.randint(3, (n, *size), generator=draws)


def learner(*, size: tuple[int, ...] = SIZE, **changed: Any) -> Mod:
    table = Table.model_validate({"heads": (13, 11, 7), "still": 0.0} | changed)
    made = Mod(net(dims=len(size)), table, classes=3, size=size, in_channels=2, steps=10)
    made.train()
    return made


def optimiser_of(mod: Mod) -> torch.optim.Optimizer:
    return torch.optim.Adam([weight for weight in mod.parameters() if weight.requires_grad], lr=0.01)


def train(mod: Mod, optimiser: torch.optim.Optimizer, steps: range) -> list[dict[str, float]]:
    """As the training loop does it: draws by the step, one step down, and settled."""
    found = []
    for step in steps:
        torch.manual_seed(1000 + step)
        terms = mod.loss(*batch())
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        optimiser.step()
        optimiser.zero_grad()
        mod.settle(step + 1)
        found.append({name: float(term.detach()) for name, term in terms.items()})
    return found


def seeded(mod: Mod, seed: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return mod.loss(*batch())


# --- what is descended


@pytest.mark.parametrize(
    ("parts", "terms"),
    [
        ({}, ALL),
        ({"predictor": False}, ALL - {"rebuild"}),
        ({"tokenizer": False}, {"dice", "focal", "rebuild"}),
        (OFF, {"dice", "focal"}),
    ],
)
def test_each_part_stands_alone_as_in_table_iii(parts: dict[str, Any], terms: set[str]) -> None:
    mod = learner(**parts)
    assert set(seeded(mod)) == terms
    assert any(key.startswith("teacher.") for key in mod.state_dict()) is ("token" in terms)
    assert any(key.startswith("predictor.") for key in mod.state_dict()) is ("rebuild" in terms)
    losses = train(mod, optimiser_of(mod), range(6))
    assert all(value >= 0 for step in losses for value in step.values())
    assert losses[-1]["focal"] < losses[0]["focal"]


def test_equal_seeds_give_equal_losses_and_other_seeds_others() -> None:
    first, again, other = seeded(learner()), seeded(learner()), seeded(learner(), 4)
    assert all(torch.equal(first[name], again[name]) for name in ALL)
    assert all(not torch.equal(first[name], other[name]) for name in ALL)


def test_without_its_weight_it_is_plain_training() -> None:
    plain, mod = learner(**OFF), learner(mod_weight=0.0)
    for one in (plain, mod):
        torch.autograd.backward(torch.stack(list(seeded(one).values())).sum())
    for own, other in zip(plain.student.parameters(), mod.student.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert torch.equal(own.grad, other.grad)
    for key, value in plain.student.state_dict().items():  # running statistics: masked passes do not count
        assert torch.equal(value, mod.student.state_dict()[key]), key


def test_weights_multiply_their_terms() -> None:
    base = seeded(learner())
    heavy = seeded(learner(mod_weight=0.001, patch=3.0, token=2.0, rebuild=5.0, dice=2.0, focal=0.5))
    for name, factor in {"patch": 0.002, "token": 0.004, "rebuild": 0.005, "dice": 2.0, "focal": 0.5}.items():
        assert_close(heavy[name], factor * base[name])


def test_no_parameter_of_the_teacher_has_a_gradient_or_is_descended() -> None:
    mod = learner()
    torch.autograd.backward(torch.stack(list(seeded(mod).values())).sum())
    assert mod.teacher is not None
    assert mod.tokenizer is not None
    own = [*mod.teacher.parameters(), *mod.tokenizer.average.parameters()]
    assert all(weight.grad is None and not weight.requires_grad for weight in own)
    learns = [name for name, weight in mod.named_parameters() if weight.grad is not None]
    assert {name.split(".")[0] for name in learns} == {"student", "tokenizer", "predictor", "value"}
    assert not any(name.startswith("tokenizer.average") for name in learns)


def test_what_is_hidden_cannot_be_read_but_is_asked_for() -> None:
    mod, (images, _) = learner(scale=0.0, shift=0.0, blur_share=0.0, gamma_share=0.0), batch()
    views, hidden = mod._draw(images)
    seen = mod._hide(views, hidden).detach()
    voxels = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)[:, None].expand_as(seen)
    assert hidden.flatten(1).sum(1).tolist() == 4 * [18]
    assert not torch.equal(hidden[0], hidden[2]), "each view has a mask of its own"
    assert float(seen[voxels].abs().max()) == 0
    assert torch.equal(seen[~voxels], views[~voxels])
    assert_close(views, torch.cat([images, images]))


def test_the_learned_value_is_learned_and_zero_stays() -> None:
    mod = learner()
    assert mod.value is not None
    train(mod, optimiser_of(mod), range(2))
    assert float(mod.value.detach().abs().min()) > 0
    assert learner(mask_value="zero").value is None


@pytest.mark.parametrize("target", ["view", "input"])
def test_the_terms_are_those_of_two_views_that_the_average_reads_whole(target: str) -> None:
    mod, (images, _) = learner(target=target), batch()
    train(mod, optimiser_of(mod), range(2))  # else the average is the student
    mod.eval()  # no dropout, and centres that rest
    assert mod.tokenizer is not None
    assert mod.predictor is not None
    assert mod.teacher is not None
    terms = seeded(mod)
    torch.manual_seed(3)
    views, hidden = mod._draw(images)
    assert not torch.equal(views[:2], views[2:])
    with torch.no_grad():
        masked = up_to(mod.student, "deep", mod._hide(views, hidden))
        whole = up_to(mod.teacher, "deep", views)
        matched = mod.tokenizer(masked, whole, hidden, warmth(2, 10, mod.table))
        rebuilt = mod.predictor(masked)
    wanted = patches_of(views if target == "view" else torch.cat([images, images]), 4)
    assert_close(terms["patch"], 1.5 * matched["patch"])
    assert_close(terms["token"], 0.5 * matched["token"])
    assert_close(terms["rebuild"], (rebuilt - wanted).abs()[hidden.flatten(1)].mean())


@pytest.mark.parametrize(
    "changed",
    [
        {"masked_views": 1}, {"segment": "masked"}, {"segment": "masked", "masked_views": 1}, {"mask": "random"},
        {"target": "input"}, {"decoder": "conv"}, {"shared_head": False}, {"class_on_patches": True}, {"stage": "E2"},
        {"mask_value": "zero"}, {"masked_views": 1, "tokenizer": False},
    ],
)  # fmt: skip
def test_every_variant_descends_to_something_of_its_own(changed: dict[str, Any]) -> None:
    mod, base = learner(**changed), seeded(learner())
    terms = seeded(mod)
    same = {name for name in terms if torch.equal(terms[name], base[name])}
    assert same < set(terms) or changed == {"mask_value": "zero"}, "zero is where the learned value begins"
    if "segment" not in changed:
        assert same >= {"dice", "focal"}, "the loss on masks is the same whatever stands beside it"
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    assert all(weight.grad is not None for weight in mod.student.parameters())


def test_regions_are_descended_in_place_of_classes() -> None:
    table = Table(**OFF)
    mod = Mod(net(), table, classes=3, size=SIZE, in_channels=2, steps=10, regions=((1, 2), (2,)))
    mod.eval()
    images, masks = batch()
    logits = mod.student(images)
    outside = logits.softmax(1)[:, 0]
    inside = torch.stack([1 - outside, logits.softmax(1)[:, 2]], 1)
    target = torch.stack([masks > 0, masks == 2], 1)
    space = (2, 3, 4)
    dice = 1 - 2 * (inside * target).sum(space) / (inside.sum(space) + target.sum(space))
    assert_close(mod.loss(images, masks)["dice"], dice.mean(), rtol=1e-4, atol=1e-5)


def test_slices_learn_the_same_way() -> None:
    mod = learner(size=(12, 20))
    torch.manual_seed(0)
    assert set(mod.loss(*batch(2, (12, 20)))) == ALL


def test_a_registered_network_of_volumes_learns_so() -> None:
    torch.manual_seed(0)
    student = models.create("dynunet", 1, 3, width=8)
    table = Table(heads=(13, 11, 7), stage="E4")
    mod = Mod(student, table, classes=3, size=(32, 32, 32), in_channels=1, steps=10).train()
    terms = mod.loss(torch.randn(1, 1, 32, 32, 32), torch.randint(3, (1, 32, 32, 32)))
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    assert mod.grid == (4, 4, 4)
    assert set(terms) == ALL
    assert all(weight.grad is not None for weight in student.parameters())
    assert student.state_dict().keys() == models.create("dynunet", 1, 3, width=8).state_dict().keys()


# --- the moving average


@pytest.mark.parametrize(("ema", "kept"), [(1.0, True), (0.0, False)])
def test_a_teacher_that_keeps_all_stays_and_one_that_keeps_nothing_is_the_student(ema: float, kept: bool) -> None:
    mod = learner(ema=ema)
    assert mod.teacher is not None
    assert mod.tokenizer is not None
    before = copy.deepcopy(mod.teacher)
    train(mod, optimiser_of(mod), range(1))
    for module, first, own in (
        (mod.teacher, before, mod.student),
        (mod.tokenizer.average, None, mod.tokenizer.heads),
    ):
        for name, value in module.named_parameters():
            assert torch.equal(value, own.get_parameter(name)) is not kept
            assert first is None or torch.equal(value, first.get_parameter(name)) is kept


@pytest.mark.parametrize(("step", "keep"), [(1, 0.6), (6, 0.8), (10, 0.99021130325903)])
def test_it_keeps_more_of_itself_along_a_cosine(step: int, keep: float) -> None:
    mod = learner(ema=0.6)  # over 10 steps: 1 - 0.4 (cos(pi (step - 1) / 10) + 1) / 2
    assert mod.teacher is not None
    assert mod.tokenizer is not None
    pairs = [(mod.teacher, mod.student), (mod.tokenizer.average, mod.tokenizer.heads)]
    for _, own in pairs:
        for weight in own.parameters():
            torch.nn.init.normal_(weight)
    before = copy.deepcopy([average for average, _ in pairs])
    mod.settle(step)
    for first, (average, own) in zip(before, pairs, strict=True):
        for name, value in average.named_parameters():
            assert_close(value, keep * first.get_parameter(name) + (1 - keep) * own.get_parameter(name))


def test_temperature_warms_and_the_last_layer_begins_to_learn() -> None:
    mod = learner(still=0.15, warm_up=0.5)
    found = []
    for done in (0, 1, 2, 5, 9):
        mod.settle(done) if done else None
        mod.zero_grad()
        terms = seeded(mod.eval())
        torch.autograd.backward(terms["patch"])
        assert mod.tokenizer is not None
        found.append((terms["patch"].item(), mod.tokenizer.heads.prototypes[0].grad is not None))
    assert [learns for _, learns in found] == [False, False, True, True, True]
    assert len({value for value, _ in found[:4]}) == 4
    assert found[3][0] == pytest.approx(found[4][0], rel=1e-3), "warm after half of the steps"


def test_the_teacher_rests_whatever_the_learner_does() -> None:
    mod = learner()
    assert mod.teacher is not None
    assert mod.train().student.training
    assert not any(module.training for module in mod.teacher.modules())
    assert not mod.eval().student.training


# --- what is left behind


def test_the_student_leaves_with_nothing_of_it() -> None:
    mod, bare = learner(), net()
    train(mod, optimiser_of(mod), range(2))
    assert mod.shipped is mod.student
    assert mod.shipped.state_dict().keys() == bare.state_dict().keys()
    bare.load_state_dict(mod.shipped.state_dict())
    images, _ = batch()
    with torch.no_grad():
        assert torch.equal(mod.shipped.eval()(images), bare.eval()(images))
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in mod.modules())


@pytest.mark.parametrize("parts", [{}, OFF])
def test_the_teacher_is_shipped_where_it_is_asked_for(parts: dict[str, Any]) -> None:
    mod = learner(ship="teacher", **parts)
    assert mod.shipped is mod.teacher
    assert mod.shipped is not mod.student
    train(mod, optimiser_of(mod), range(2))
    assert mod.shipped.state_dict().keys() == net().state_dict().keys()
    expected = {name: value.clone() for name, value in mod.shipped.state_dict().items()}
    own = mod.student.state_dict()
    assert any(not torch.equal(value, own[name]) for name, value in expected.items())


def test_a_killed_training_goes_on_bit_for_bit() -> None:
    whole, cut = learner(), learner()
    optimiser = optimiser_of(whole)
    losses = train(whole, optimiser, range(5))
    first = optimiser_of(cut)
    begun = train(cut, first, range(3))
    saved = copy.deepcopy((cut.state_dict(), first.state_dict()))
    resumed = learner()
    second = optimiser_of(resumed)
    resumed.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    assert int(resumed.done) == 3
    assert begun + train(resumed, second, range(3, 5)) == losses
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


# --- what cannot be


def test_a_stage_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(InputError, match="`toy` has no stage `E9`; its stages: E2, E3"):
        learner(stage="E9")
    with pytest.raises(InputError, match="`Conv3d` has no stated deepest feature map; take a network that is shaped"):
        stage_of(nn.Conv3d(1, 1, 1))


def test_too_few_tokens_are_told_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"4 × 4 × 4 have 1 tokens .* name a finer map, such as `stage = \"E4\"`"):
        learner(size=(4, 4, 4))


def test_a_stride_that_is_not_the_maps_is_a_mistake_of_the_programmer() -> None:
    toy = net()
    toy.bottom = Stage("deep", 2)
    with pytest.raises(ValueError, match="its stride says"):
        Mod(toy, Table(), classes=3, size=SIZE, in_channels=2, steps=10)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"made for \(12, 8, 20\)"):
        learner().loss(*batch(2, (8, 8, 20)))
