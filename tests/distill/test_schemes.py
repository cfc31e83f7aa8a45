"""Every scheme on a small student: which terms, over which slices, and what leaves with the student."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from distill import schemes
from distill.losses.attention import attention_transfer
from distill.losses.contrast import contrast_distance
from distill.losses.kl import soften, student_first_kl, teacher_first_kl
from distill.schemes.base import Batch, Scheme, TeacherBatch
from distill.weights import LAWS, dissent
from imaging.errors import InputError
from models.knowledge import SAYS, attention_map, region_contrast
from study.dice import dice_loss
from study.distill_tables import Weights
from study.learners import ALONE
from study.lovasz import lovasz_softmax
from study.plan import Amtkd, Distill

Student = Callable[[int], nn.Module]
MakeBatch = Callable[..., Batch]
OURS = ("mono-teacher", "uniform", "amtkd")
TAUGHT = [name for name in schemes.names() if name not in ("supervised", "probe", *ALONE)]
"""Those that learn from teachers."""


def scheme(name: str, student: Student, classes: int = 3, **options: object) -> Scheme:
    return schemes.create(name, student(classes), Distill(amtkd=Amtkd.model_validate(options)), classes)


def weighed(law: str, student: Student) -> Scheme:
    plan = Weights.model_validate({"law": law, "fixed": {"east": 1.0}})
    return schemes.create("amtkd", student(2), Distill(weights=plan), 2)


def answers_of(batch: Batch) -> TeacherBatch:
    assert batch.teachers is not None
    return batch.teachers


TERMS = {
    "supervised": set(),
    **{name: {"kl", "attention", "contrast"} for name in OURS},
    "kd": {"kl"},
    "at": {"attention"},
    "skd": {"pixel", "pair", "holistic", "critic"},
    "emkd": {"prediction", "importance", "region"},
    "cirkd": {"kl", "batch", "pixel", "region"},
    "protokd": {"kl", "prototypes"},
    "amtml-kd": {"kl", "distance", "angle", "decay"},
    "ca-mkd": {"kl"},
    "consensus": {"kl", "overlap"},
}
LATER = {"cirkd": {"pixel", "region"}}
"""Terms that are 0 until something was remembered."""
BESIDE = {"critic", "decay"}
"""Terms that train what the student leaves behind."""


def adapted(learner: Scheme, batch: Batch) -> Scheme:
    torch.manual_seed(0)
    learner.adapt(batch)
    return learner


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("segmentation", ["amtkd", "own"])
@pytest.mark.parametrize("name", ["supervised", *TAUGHT])
def test_every_term_is_a_scalar_that_moves_the_student(
    name: str, segmentation: str, classes: int, student: Student, batch: MakeBatch
) -> None:
    plan = Distill.model_validate({"segmentation": segmentation})
    learner = schemes.create(name, student(classes), plan, classes)
    data = batch(classes, teachers=1 if learner.needs.teachers == "one" else 3)
    adapted(learner, data)
    first, terms = learner.loss(data), learner.loss(data)
    assert {term for term, value in first.items() if value == 0} == LATER.get(name, set())
    masks = set(terms) - TERMS[name]
    assert masks == {"dice", "lovasz"} if segmentation == "amtkd" or name in ("supervised", *OURS) else masks
    assert masks
    assert set(terms) >= TERMS[name]
    for term, value in terms.items():
        assert value.shape == ()
        assert value.isfinite()
        learner.zero_grad()
        value.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.student.parameters())
        assert moved == (term not in BESIDE)


@pytest.mark.parametrize("name", TAUGHT)
def test_single_teacher_schemes_hear_all_under_a_law(name: str, student: Student, batch: MakeBatch) -> None:
    plan = Distill.model_validate({"weights": {"law": "agreement"}})
    learner, data = schemes.create(name, student(3), plan, 3), batch(3)
    assert learner.needs.teachers == ("one" if name == "mono-teacher" else "all")
    adapted(learner, data)
    assert all(term.isfinite() for term in learner.loss(data).values())


@pytest.mark.parametrize("name", TAUGHT)
def test_a_teacher_who_gives_logits_alone_counts_where_it_can(name: str, student: Student, batch: MakeBatch) -> None:
    plan = Distill.model_validate({"weights": {"law": "uniform"}})
    learner, data = schemes.create(name, student(3), plan, 3), batch(3)
    answers_of(data).told[1].clear()
    adapted(learner, data)
    learner.loss(data)
    terms = learner.loss(data)
    assert all(term.isfinite() for term in terms.values())
    assert all(terms[term] != 0 for term in TERMS[name] - {"decay"})


def test_what_a_teacher_does_not_give_is_weighed_among_those_who_do(student: Student, batch: MakeBatch) -> None:
    plan = Distill.model_validate({"weights": {"law": "uniform"}})
    learner, data = schemes.create("amtkd", student(3), plan, 3), batch(3)
    answers = answers_of(data)
    answers.told[1].clear()
    learner.student.eval()
    among_three = learner.loss(data)
    others = TeacherBatch(answers.logits[:, ::2], answers.answered[:, ::2], answers.told[::2], answers.sites[::2])
    alone = learner.loss(replace(data, teachers=others))
    for term in ("attention", "contrast"):
        assert_close(among_three[term], alone[term])


def test_attention_as_printed_compares_maps_in_the_size_they_are_sent_in(student: Student, batch: MakeBatch) -> None:
    learner, data = scheme("amtkd", student, attention="as-printed"), batch(3)
    taps = dict(zip(("encoder", "decoder"), hooked(learner.student.eval()), strict=True))
    learner.student(data.images)
    same = {f"attention/{tap}": SAYS["attention"](features[-1]).detach() for tap, features in taps.items()}
    assert learner.loss(data)["attention"] > 0.1
    for told in answers_of(data).told:
        told.update(same)
    assert learner.loss(data)["attention"] == 0


@pytest.mark.parametrize("name", ["amtml-kd", "ca-mkd"])
def test_hints_are_asked_for_where_they_weigh(name: str, student: Student, batch: MakeBatch) -> None:
    plan = Distill.model_validate({name.replace("-", "_"): {"hints": 1.0}})
    learner, data = schemes.create(name, student(3), plan, 3), batch(3)
    assert learner.needs.contents == ("logits", "features")
    terms = adapted(learner, data).loss(data)
    terms["hints"].backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.student.parameters())


@pytest.mark.parametrize(
    ("attention", "kl"), [("scaled", "teacher-first"), ("summed", "teacher-first"), ("summed", "student-first")]
)
def test_amtkd_is_equations_1_to_7_written_out(attention: str, kl: str, student: Student, batch: MakeBatch) -> None:
    """Slice by slice and teacher by teacher, as the equations stand, against the batched form."""
    learner, data = scheme("amtkd", student, attention=attention, kl=kl), batch(3)
    divergence = teacher_first_kl if kl == "teacher-first" else student_first_kl
    answers = answers_of(data)
    net = learner.student.eval()
    encoder, decoder = hooked(net)
    logits = net(data.images)
    expected = dict.fromkeys(("dice", "lovasz", "kl", "attention", "contrast"), torch.zeros(()))
    for n in range(5):
        mask, labelled = data.masks[n : n + 1], n < 3
        probs = answers.logits[n].softmax(1)
        everyone = torch.ones(1, 3, dtype=torch.bool)
        by_mask = (
            torch.stack([dice_loss(probs[j : j + 1].flatten(2), mask.flatten(1))[0] for j in range(3)])
            if labelled
            else None
        )
        losses = by_mask if by_mask is not None else dissent(probs[None], everyone)[0]
        w = (1 - losses) / (1 - losses).sum()
        target = sum(w[j] * soften(answers.logits[n, j : j + 1]) for j in range(3))
        assert isinstance(target, torch.Tensor)
        expected["kl"] = expected["kl"] + 0.1 * divergence(logits[n : n + 1], target)[0] / 5
        for tap, features in (("encoder", encoder[-1]), ("decoder", decoder[-1])):
            own, valid = region_contrast(features[n : n + 1], mask, 3)
            side = math.sqrt(features[0, 0].numel()) if attention == "scaled" else 1.0
            for j in range(3):
                at = attention_transfer(
                    attention_map(features[n : n + 1]), answers.told[j][f"attention/{tap}"][n : n + 1]
                )
                expected["attention"] = expected["attention"] + 0.1 * w[j] * at[0] / side / 5
                if labelled:
                    rc = contrast_distance(own, answers.told[j][f"contrast/{tap}"][n : n + 1], valid)
                    expected["contrast"] = expected["contrast"] + 0.1 * w[j] * rc[0] / 3
        if labelled:
            own_probs = logits[n : n + 1].softmax(1)
            expected["dice"] = expected["dice"] + 0.2 * dice_loss(own_probs.flatten(2), mask.flatten(1))[0] / 3
            expected["lovasz"] = expected["lovasz"] + 0.3 * lovasz_softmax(own_probs.flatten(2), mask.flatten(1))[0] / 3
    assert_close(learner.loss(data), expected)


def hooked(net: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    kept: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for name, outputs in zip(("encoder", "decoder"), kept, strict=True):
        net.get_submodule(name).register_forward_hook(lambda _m, _a, out, keep=outputs: keep.append(out))
    return kept


def test_uniform_hears_all_alike_and_mono_is_amtkd_with_one_teacher(student: Student, batch: MakeBatch) -> None:
    data = batch(3)
    weights = scheme("uniform", student).weights(data)
    assert_close(weights, torch.full((5, 3), 1 / 3))
    alone = batch(3, teachers=1)
    mono, amtkd = scheme("mono-teacher", student), scheme("amtkd", student)
    amtkd.load_state_dict(mono.state_dict())
    assert_close(mono.loss(alone), amtkd.loss(alone))


def test_the_law_decides_who_is_heard(student: Student, batch: MakeBatch) -> None:
    data = batch(2, unlabelled=0)
    answers = answers_of(data)
    right = torch.nn.functional.one_hot(data.masks.long(), 2).movedim(3, 1).float()
    answers.logits[:, 0] = 8 * right
    shares = {
        law: weighed(law, student).weights(data)[:, 0]
        for law in (
            "agreement",
            "as-printed",
            "agreement-softmax",
            "record",
            "confidence",
            "best-of",
            "fixed",
            "uniform",
        )
    }
    assert (shares["as-printed"] < 0.01).all()
    assert (shares["agreement"] > 1 / 3).all()
    assert (shares["agreement-softmax"] > shares["agreement"]).all()
    assert_close(shares["record"], shares["agreement-softmax"])
    assert (shares["confidence"] > 1 / 3).all()
    assert (shares["best-of"] == 1).all()
    assert (shares["fixed"] == 0).all()
    assert_close(shares["uniform"], torch.full((5,), 1 / 3))


@pytest.mark.parametrize("name", ["uniform", "amtkd"])
def test_a_missing_answer_is_as_if_there_were_no_such_teacher(name: str, student: Student, batch: MakeBatch) -> None:
    learner, data = scheme(name, student), batch(3)
    answers = answers_of(data)
    answers.answered[:, 1] = False
    kept = [0, 2]
    without = TeacherBatch(
        logits=answers.logits[:, kept],
        answered=answers.answered[:, kept],
        told=[answers.told[j] for j in kept],
        sites=tuple(answers.sites[j] for j in kept),
    )
    learner.student.eval()
    assert_close(learner.loss(data), learner.loss(replace(data, teachers=without)))


def test_a_slice_that_nobody_answered_teaches_by_its_mask_alone(student: Student, batch: MakeBatch) -> None:
    learner, data = scheme("amtkd", student), batch(3)
    answers = answers_of(data)
    learner.student.eval()
    answers.answered[0] = False
    terms = learner.loss(data)
    answers.logits[0] += 3.0
    answers.told[0]["contrast/encoder"][0] -= 0.5
    again = learner.loss(data)
    assert_close(terms, again)
    answers.answered[:] = False
    assert {name for name, term in learner.loss(data).items() if term == 0} == {"kl", "attention", "contrast"}


SILENT = {"dice", "lovasz", "ce", "focal", "contrast", "region", "prototypes", "pixel"}
"""Terms that need a mask; `pixel` is CIRKD's, whose memory is filled by masks."""


@pytest.mark.parametrize("segmentation", ["amtkd", "own"])
@pytest.mark.parametrize("name", TAUGHT)
def test_without_any_mask_only_the_teachers_speak(
    name: str, segmentation: str, student: Student, batch: MakeBatch
) -> None:
    learner = schemes.create(name, student(3), Distill.model_validate({"segmentation": segmentation}), 3)
    data = batch(3, unlabelled=5, teachers=1 if learner.needs.teachers == "one" else 3)
    adapted(learner, data)
    learner.loss(data)
    terms = learner.loss(data)
    silent = SILENT - ({"pixel"} if name == "skd" else set())
    assert {term for term, value in terms.items() if value == 0} == silent & set(terms)
    assert set(terms) - silent
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


@pytest.mark.parametrize("name", TAUGHT)
def test_a_batch_that_nobody_answered_teaches_by_its_masks(name: str, student: Student, batch: MakeBatch) -> None:
    learner = schemes.create(name, student(3), Distill(), 3)
    data = batch(3, teachers=1 if learner.needs.teachers == "one" else 3)
    adapted(learner, data)
    answers_of(data).answered[:] = False
    terms = learner.loss(data)
    assert {term for term, value in terms.items() if value != 0} <= {"dice", "lovasz", "decay"}
    assert all(value.isfinite() for value in terms.values())


@pytest.mark.parametrize("name", ["amtkd", "kd", "consensus", "amtml-kd"])
def test_weights_can_be_learned_in_any_scheme(name: str, student: Student, batch: MakeBatch) -> None:
    plan = Distill.model_validate({"weights": {"law": "learned"}, "amtml_kd": {"decay": 0.5}})
    learner, data = adapted(schemes.create(name, student(3), plan, 3), batch(3)), batch(3)
    terms = learner.loss(data)
    learned = [learner.get_parameter(f"learned.{name}") for name in ("theta", "projection")]
    assert_close(terms["decay"], 0.5 * sum(part.square().sum() for part in learned))
    terms["kl"].backward()  # type: ignore[no-untyped-call]
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in learned)
    weights, answered = learner.weights(data), answers_of(data).answered
    assert_close(weights.sum(1), answered.any(1).float())
    assert (weights[~answered] == 0).all()
    assert not weights.requires_grad


@pytest.mark.parametrize(
    ("name", "other", "times"),
    [
        ("skd", {"skd": {"pixels": "code"}}, {"pixel": 5.0}),
        ("protokd", {"protokd": {"form": "usual"}}, {"kl": 100.0 * 3}),
        ("ca-mkd", {"ca_mkd": {"form": "code"}}, {"kl": 1 / 3}),
    ],
)
def test_what_codes_and_papers_do_otherwise_can_be_chosen(
    name: str, other: dict[str, Any], times: dict[str, float], student: Student, batch: MakeBatch
) -> None:
    net, data = student(3), batch(3, teachers=3 if name == "ca-mkd" else 1)
    usual, chosen = (
        adapted(schemes.create(name, net, Distill.model_validate(plan), 3), data).eval().loss(data)
        for plan in ({}, other)
    )
    for term, factor in times.items():
        assert_close(chosen[term], factor * usual[term])


def test_softened_logits_alone_need_nothing_else(student: Student, batch: MakeBatch) -> None:
    learner, data = scheme("amtkd", student, alpha=0.0), batch(3)
    assert learner.needs.contents == ("logits",)
    answers = answers_of(data)
    bare = replace(data, teachers=TeacherBatch(answers.logits, answers.answered, [{}] * 3))
    assert set(learner.loss(bare)) == {"dice", "lovasz", "kl"}


def test_consensus_is_kl_and_dice_with_what_the_better_teachers_say(student: Student, batch: MakeBatch) -> None:
    plan = Distill.model_validate({"consensus": {"kl": 0.7, "overlap": 0.4}, "weights": {"tau": 0.3}})
    learner, data = schemes.create("consensus", student(3), plan, 3), batch(3)
    answers = answers_of(data)
    learner.student.eval()
    weights = LAWS["agreement-softmax"](answers, data.masks, data.labelled, Weights(tau=0.3))
    kl, overlap = [], []
    for n in torch.nonzero(answers.answered.any(1))[:, 0].tolist():
        target = sum(w * z.softmax(0) for w, z in zip(weights[n], answers.logits[n].float(), strict=True))
        assert isinstance(target, torch.Tensor)
        said = learner.student(data.images[n : n + 1])[0].softmax(0)
        kl.append((target * (target.log() - said.log())).sum(0).mean())
        apart = [(said[c] - target[c]).abs().sum() / ((said[c] + target[c]).sum() + 1) for c in (1, 2)]
        overlap.append(torch.stack(apart).mean())
    terms = learner.loss(data)
    assert_close(terms["kl"], 0.7 * torch.stack(kl).mean())
    assert_close(terms["overlap"], 0.4 * torch.stack(overlap).mean())


@pytest.mark.parametrize("name", ["supervised", *TAUGHT])
def test_the_student_leaves_with_nothing_of_the_scheme_in_it(name: str, student: Student, batch: MakeBatch) -> None:
    net = student(3)
    before = set(net.state_dict())
    learner = schemes.create(name, net, Distill(), 3)
    data = batch(3, teachers=1 if learner.needs.teachers == "one" else 3)
    adapted(learner, data).loss(data)
    assert learner.student is net
    assert set(net.state_dict()) == before
    assert type(net)(3).load_state_dict(net.state_dict())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_needs_say_what_each_scheme_asks_of_the_sites() -> None:
    needs = {name: schemes.create(name, nn.Identity(), Distill(), 2).needs for name in schemes.names()}
    assert {name for name, need in needs.items() if need.teachers == "all"} == {
        "uniform", "amtkd", "amtml-kd", "ca-mkd", "consensus",
    }  # fmt: skip
    assert {name for name, need in needs.items() if need.teachers == "none"} == {"supervised", "probe", *ALONE}
    assert {name for name, need in needs.items() if not need.unlabelled} == {"supervised", "probe", *ALONE}
    assert {name: need.contents[1:] for name, need in needs.items() if need.contents[1:]} == {
        **dict.fromkeys(OURS, ("attention", "contrast")),
        "at": ("attention-2",),
        "skd": ("affinity",),
        "emkd": ("attention-4", "contrast"),
        "cirkd": ("features",),
        "protokd": ("prototypes",),
    }


def test_an_unknown_scheme_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean `amtkd`"):
        schemes.create("amtdk", nn.Identity(), Distill(), 2)


def test_a_batch_goes_to_a_device_whole(batch: MakeBatch) -> None:
    moved = batch(3).to(torch.device("meta"))
    assert {moved.images.device.type, answers_of(moved).told[1]["attention/encoder"].device.type} == {"meta"}
    assert replace(moved, teachers=None).to(torch.device("meta")).teachers is None
