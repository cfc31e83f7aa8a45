"""DSD and its rivals on networks: what is added, what leaves, and that nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import models
from imaging.errors import InputError
from models.bottleneck import Bottleneck, split
from models.entry import Stage
from models.network import Network
from study.dsd_table import Dsd as Table
from study.dsd_table import Missu as MissuTable
from study.learners.base import Learner
from study.learners.dsd import Dsd
from study.learners.dsd_terms import Target, dce, terms_of
from study.learners.feature_l2 import FeatureL2
from study.learners.missu import Missu
from study.learners.stages import channels_of

SIZE = (16, 16, 32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


class Toy(nn.Module):
    """A 2-D U without skips but with all stages, batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        steps = [nn.Conv2d(1, 3, 1), *(nn.Conv2d(c, c + 2, 2, stride=2) for c in (3, 5, 7, 9))]
        self.down = nn.ModuleList(nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)) for conv in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, c - 2, 2, stride=2) for c in (11, 9, 7, 5))
        self.out = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.down, *self.up):
            x = F.dropout(layer(x), 0.1, self.training)
        logits: Tensor = self.out(x)
        return logits


def toy(body: nn.Module | None = None, **changed: Stage) -> Network:
    stages = {f"E{i + 1}": Stage(f"down.{i}", 2**i) for i in range(4)}
    stages |= {"D4": Stage("down.4", 16), **{f"D{3 - i}": Stage(f"up.{i}", 8 // 2**i) for i in range(3)}}
    return Network(body or Toy(), name="toy", in_channels=1, taps={}, multiple=16, stages=stages | changed)


def wrapped(student: nn.Module, size: Sequence[int] = (16, 32), **table: object) -> Dsd:
    return Dsd(student, Table.model_validate(table), classes=3, size=size, in_channels=1)


def batch(*size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 1, *size), torch.randint(0, 3, (2, *size))


def total(learner: Learner, seen: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack(list(learner.loss(*seen).values())).sum()


def train(learner: Learner, seen: tuple[Tensor, Tensor], *, steps: int) -> list[float]:
    adam, losses = torch.optim.Adam(learner.network.parameters(), lr=0.01), []
    for _ in range(steps):
        adam.zero_grad()
        loss = total(learner, seen)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        losses.append(loss.item())
    return losses


ADDED = [
    ("vnet", (1, 3, 32), {}, 3_393),  # the authors' ninth head, whose output nobody reads, has 111 more
    ("unetr", (1, 3, 32), {}, 4_257),
    ("dynunet", (1, 3, 32), {}, 1_815),
    ("unetr", (1, 8, 96), {}, 13_632),
    ("unetr", (1, 8, 96), {"width": 32}, 17_344),
    ("dynunet", (1, 8, 96), {}, 6_160),
    ("dynunet", (1, 8, 96), {"width": 32}, 8_592),
    ("unetr", (4, 4, 128), {}, 5_904),
    ("unetr", (4, 4, 128), {"width": 64}, 11_472),
    ("dynunet", (4, 4, 128), {}, 2_552),
    ("vnet", (4, 4, 128), {}, 4_752),
]


@pytest.mark.parametrize(("name", "task", "options", "added"), ADDED)
def test_it_adds_the_papers_parameters(
    name: str, task: tuple[int, int, int], options: dict[str, int], added: int
) -> None:
    channels, classes, side = task
    size = (side, side, side)
    with torch.device("meta"):
        student = models.create(name, channels, classes, size=size, **options)
    learner = Dsd(student, Table(), classes=classes, size=size, in_channels=channels)
    assert count(learner) - count(student) == added


def test_it_adds_the_papers_parameters_to_swin_unetr() -> None:
    student = models.create("swin-unetr", 4, 4, width=12)
    learner = Dsd(student, Table(), classes=4, size=(32, 32, 64), in_channels=4)
    assert count(learner) - count(student) == 1_336


@pytest.mark.parametrize(("name", "options"), [("dynunet", {"width": 4}), ("unetr", {"width": 4, "hidden": 48})])
def test_the_student_leaves_with_nothing_of_it(name: str, options: dict[str, int]) -> None:
    bare = models.create(name, 1, 3, size=SIZE, **options)
    learner = wrapped(copy.deepcopy(bare), SIZE, variant="feature-l2")
    seen = batch(*SIZE)
    assert list(learner.loss(*seen)) == ["y", "ds", "kl_enc", "kl_dec", "l2"]
    assert hooks(learner) == 0
    train(learner, seen, steps=2)
    student = learner.shipped
    assert hooks(student) == 0
    bare.load_state_dict(student.state_dict())
    assert list(bare.state_dict()) == list(student.state_dict())
    with torch.no_grad():
        assert_close(student.eval()(seen[0]), bare.eval()(seen[0]), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["dsd", "missu"])
def test_at_rest_nothing_of_it_runs(kind: str) -> None:
    learner: Learner = wrapped(toy())
    if kind == "missu":
        learner = Missu(toy(), MissuTable(), size=(16, 32), in_channels=1)
    ran = []
    for own in learner.modules():
        if own not in set(learner.shipped.modules()):
            own.register_forward_hook(lambda module, *_: ran.append(module))
    learner.loss(*batch(16, 32))
    assert ran
    ran.clear()
    learner.shipped.eval()(batch(16, 32)[0])
    assert not ran


def test_the_networks_weights_and_later_draws_do_not_depend_on_it() -> None:
    def made(*, wrap: bool) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(5)
        student = toy()
        if wrap:
            wrapped(student, variant="feature-l2")
            Missu(student, MissuTable(), size=(16, 32), in_channels=1)
        return student, torch.rand(3)

    (student, drawn), (bare, plainly) = made(wrap=True), made(wrap=False)
    assert_close(student.state_dict(), bare.state_dict(), rtol=0, atol=0)  # the norms' running means, too
    assert_close(drawn, plainly, rtol=0, atol=0)
    assert student.training


def test_heads_follow_the_seed_alone() -> None:
    def heads(seed: int, before: int) -> Tensor:
        torch.manual_seed(seed)
        torch.rand(before)
        return nn.utils.parameters_to_vector(wrapped(toy()).heads.parameters())

    assert_close(heads(5, 0), heads(5, 7), rtol=0, atol=0)
    assert not torch.equal(heads(5, 0), heads(6, 0))


def test_heads_start_by_the_networks_own_rule_where_it_has_one() -> None:
    class Ruled(Toy):
        @staticmethod
        def initialize_weights(module: nn.Module) -> None:
            if isinstance(module, nn.Conv2d):
                nn.init.constant_(module.weight, 7)

    narrow = [module for module in wrapped(toy(Ruled())).heads.modules() if isinstance(module, nn.Conv2d)]
    assert len(narrow) == 8
    assert all((module.weight == 7).all() for module in narrow)


@pytest.mark.parametrize(("name", "options"), [("vit-autoencoder", {"hidden": 48, "layers": 1}), ("enet", {})])
def test_a_network_without_a_u_is_refused(name: str, options: dict[str, int]) -> None:
    student = models.create(name, 1, 3, size=(16, 16, 16), **options)
    with pytest.raises(InputError, match=f"`{name}` has no U for DSD to attach to; networks that have one: .*dynunet"):
        wrapped(student, (16, 16, 16))
    with pytest.raises(InputError, match=f"`{name}` has no U for MISSU"):
        Missu(student, MissuTable(), size=(16, 16, 16), in_channels=1)
    with pytest.raises(InputError, match="`Linear` has no U"):
        wrapped(nn.Linear(3, 3))


def test_a_size_that_the_network_does_not_take_is_refused_before_training() -> None:
    with pytest.raises(InputError, match=r"multiples? of 16"):
        wrapped(toy(), (16, 24))
    with pytest.raises(ValueError, match=r"stage E2 is \(8, 16\) of \(16, 32\), which is not 1/4"):
        wrapped(toy(E2=Stage("down.1", 4)))


@pytest.mark.parametrize(
    ("variant", "heads"),
    [("basic", ""), ("ds", "D4 D3 D2 D1"), ("sdd", "D4 D3 D2 D1"), ("sde", "E1 E2 E3 E4 D4 D3 D2 D1")],
)
def test_a_variant_has_the_heads_alone_that_its_terms_read(variant: str, heads: str) -> None:
    learner = wrapped(toy(), variant=variant)
    assert list(learner.heads.heads) == heads.split()
    assert [key for key in learner.state_dict() if key.startswith("l2")] == []


def bare_loss(student: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    """Dice and cross-entropy of a network that nothing is attached to."""
    logits = student(images)
    return dce(logits, Target.of(masks, logits.shape[1]))


def test_without_weights_it_is_the_plain_loss_bit_for_bit() -> None:
    seen, student = batch(16, 32), toy().train()
    gradients = []
    learners = [
        wrapped(student, variant="basic"), wrapped(student, variant="ds", eta=0),
        wrapped(student, eta=0, alpha_encoder=0, alpha_decoder=0),
    ]  # fmt: skip
    for loss in (lambda *seen: {"y": bare_loss(student, *seen)}, *(learner.loss for learner in learners)):
        torch.manual_seed(3)  # dropout
        terms = loss(*seen)
        assert list(terms) == ["y"]
        gradients.append(torch.autograd.grad(terms["y"], list(student.parameters())))
    assert count(learners[-1]) == count(student)
    for gradient in gradients[1:]:
        assert_close(gradient, gradients[0], rtol=0, atol=0)


def test_the_plain_loss_needs_no_u() -> None:
    seen = batch(16, 32)
    student = models.create("espnet", 1, 3).eval()
    basic = wrapped(student, variant="basic").loss(*seen)
    assert_close(basic, {"y": bare_loss(student, *seen)}, rtol=0, atol=0)
    assert wrapped(student, variant="basic", squared_pred=True).loss(*seen)["y"] != basic["y"]


def test_what_its_heads_say_can_be_looked_at() -> None:
    learner, (images, masks) = wrapped(toy()), batch(16, 32)
    learner.eval()
    found = learner.outputs(images)
    assert list(found) == ["y", "E1", "E2", "E3", "E4", "D4", "D3", "D2", "D1"]
    assert torch.equal(found["y"], split(learner.student(images)))
    said = {name: logits for name, logits in found.items() if name != "y"}
    terms = terms_of(learner.student(images), said, masks, learner.table)
    assert all(torch.equal(term, terms[name]) for name, term in learner.loss(images, masks).items())


def test_with_a_detached_teacher_the_deepest_encoder_head_learns_nothing() -> None:
    for detach in (True, False):
        learner = wrapped(toy(), detach_teacher=detach)
        total(learner, batch(16, 32)).backward()  # type: ignore[no-untyped-call]
        reached = {
            name: any(w.grad is not None for w in head.parameters()) for name, head in learner.heads.heads.items()
        }
        assert reached == {name: not (detach and name == "E4") for name in reached}


@pytest.mark.parametrize("variant", ["dsd", "mean-teacher", "reversed-teacher", "feature-l2"])
def test_every_variant_trains(variant: str) -> None:
    torch.manual_seed(1)
    losses = train(wrapped(toy(), variant=variant), batch(16, 32), steps=6)
    assert min(losses[-3:]) < losses[0]


def test_it_trains_in_mixed_precision() -> None:
    learner = wrapped(toy(), variant="feature-l2")
    with torch.autocast("cpu", torch.bfloat16):
        terms = learner.loss(*batch(16, 32))
    assert {term.dtype for term in terms.values()} == {torch.float32}
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in learner.parameters())


def test_pooled_features_are_drawn_to_the_deepest_encoder_and_the_last_decoder_stage() -> None:
    student = models.create("unetr", 1, 3, size=SIZE, width=4, hidden=48)
    channels = channels_of(student, student.stages, size=SIZE, in_channels=1)
    assert channels == {"E1": 4, "E2": 8, "E3": 16, "E4": 32, "D4": 48, "D3": 32, "D2": 16, "D1": 8}
    distance = FeatureL2(student.stages, channels, dims=3)
    owners = [head for head in distance.modules() if isinstance(head, Bottleneck)]
    assert [head.narrow.get_parameter("weight").shape[:2] for head in owners] == [(128, 8), (128, 16), (128, 32)]
    stages = student.stages.items()
    features = {
        n: torch.randn(2, channels[n], *(side // s.stride for side in SIZE)).requires_grad_() for n, s in stages
    }
    pooled = {name: owners[[8, 16, 32].index(channels[name])](features[name]).mean(2) for name in ("E2", "E3", "E4")}
    pooled |= {name: owners[[8, 16, 32].index(channels[name])](features[name]).mean(2) for name in ("D3", "D2", "D1")}
    pairs = [("E2", "E4"), ("E3", "E4"), ("D3", "D1"), ("D2", "D1")]
    found, expected = distance(features), sum(F.mse_loss(pooled[a], pooled[b]) for a, b in pairs)
    assert_close(found, expected)
    read = [features["E4"], features["D1"]]
    assert all(torch.count_nonzero(gradient) for gradient in torch.autograd.grad(found, read))
    detached = torch.autograd.grad(distance(features, detach=True), read, allow_unused=True)
    assert [gradient is None for gradient in detached] == [True, True]


def test_missu_teaches_encoder_stages_from_blocks_on_themselves() -> None:
    student = models.create("dynunet", 1, 3, width=4)
    learner = Missu(student, MissuTable(), size=SIZE, in_channels=1)
    assert count(learner) - count(student) == sum(82 * c * c + 4 * c for c in (4, 8, 16, 32))
    seen = batch(*SIZE)
    terms = learner.loss(*seen)
    assert list(terms) == ["y", "kl"]
    assert_close(terms["y"], bare_loss(student, *seen), rtol=0, atol=0)
    with models.tap(student, ["input_block"]) as features:
        student(seen[0])
    stage = features["input_block"]
    block = learner.blocks["E1"](stage)
    alone = F.kl_div(stage.log_softmax(1), block.softmax(1), reduction="none").sum(1).mean()
    each = [learner._divergence(learner.blocks["E1"], stage)]
    assert_close(each[0], alone)
    terms["kl"].backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None for weight in learner.blocks.parameters())
    first = student.get_submodule("body.input_block")
    assert all(weight.grad is not None and weight.grad.any() for weight in first.parameters())


def test_missus_blocks_learn_where_their_output_is_not_detached() -> None:
    learner = Missu(toy(), MissuTable(detach_teacher=False, weight=0.5), size=(16, 32), in_channels=1)
    seen = batch(16, 32)
    losses = train(learner, seen, steps=6)
    assert min(losses[-3:]) < losses[0]
    assert all(weight.grad is not None for weight in learner.blocks.parameters())
    assert hooks(learner) == 0
