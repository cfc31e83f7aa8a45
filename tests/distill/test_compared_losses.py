"""The losses of the methods that AMTKD is compared with, against worked figures and their own definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from distill import schemes
from distill.losses.attention import attention_norm, attention_square, importance_distance
from distill.losses.contrast import region_affinity
from distill.losses.cross_entropy import cross_entropy, focal, soft_cross_entropy
from distill.losses.relation import rkd_angle, rkd_distance
from distill.losses.structure import cross_image_distance, pairwise_distance, prototype_distance
from distill.schemes.base import Batch
from distill.schemes.learned import learned_scores
from distill.schemes.memory import Memory
from distill.schemes.skd import critic, critic_loss
from models.knowledge import affinity, attention_map, prototype_maps, region_contrast
from study.plan import Distill

near = partial(assert_close, atol=1e-6, rtol=0.0)


def array(*values: object) -> Tensor:
    return torch.tensor([*values], dtype=torch.float64)


STUDENT = array([[[1, -2], [0, 3]], [[2, 0], [-2, 1]]])
TEACHER = array([[[1, 1], [0, 2]], [[0, -1], [1, 2]], [[-2, 0], [0, 1]]])
FEATURES = array([[[1, 2], [3, 0]], [[0, 1], [1, 4]]])
OTHERS = array([[[2, 0], [0, 1]], [[1, 1], [3, 1]], [[0, 2], [1, 1]]])
MASK = torch.tensor([[[0, 0], [1, 1]]])


def test_attention_worked() -> None:
    two = (attention_map(STUDENT, p=2), attention_map(TEACHER, p=2))
    four = (attention_map(STUDENT, p=4), attention_map(TEACHER, p=4))
    near(attention_square(*two), array(0.01898080))
    near(attention_norm(*two), array(math.sqrt(4 * 0.01898080) / 2))
    near(importance_distance(*four), array(0.11345310))


def test_attention_brings_two_grids_together() -> None:
    coarse, fine = torch.rand(3, 5, 7), torch.rand(3, 10, 14)
    averaged = F.avg_pool2d(fine[:, None], 2)[:, 0]
    assert_close(attention_square(coarse, fine), attention_square(coarse, averaged))
    assert_close(attention_square(fine, coarse), attention_square(averaged, coarse))
    assert importance_distance(fine, coarse).shape == (3,)


def test_region_affinity_worked() -> None:
    (ours, valid), (theirs, _) = region_contrast(FEATURES, MASK, 2), region_contrast(OTHERS, MASK, 2)
    near(region_affinity(ours, theirs, valid), array(0.01504560))
    near(region_affinity(ours, theirs, ~valid), array(0.0))


def test_cross_entropies_agree_with_torch() -> None:
    logits, mask = torch.randn(3, 5, 7, 11), torch.randint(5, (3, 7, 11))
    each = torch.stack([F.cross_entropy(logits[n : n + 1], mask[n : n + 1]) for n in range(3)])
    assert_close(cross_entropy(logits, mask.to(torch.uint8)), each)
    one_hot = F.one_hot(mask, 5).movedim(3, 1).float()
    assert_close(soft_cross_entropy(logits, one_hot), each)
    assert_close(focal(logits, mask, gamma=0.0), each)
    p = logits.softmax(1).gather(1, mask[:, None])
    assert_close(focal(logits, mask), (-((1 - p) ** 2) * p.log()).mean((1, 2, 3)))


def test_pairwise_worked() -> None:
    """Without pooling: the affinities of two places, 0 and 0.7071."""
    student, teacher = array([[[1, 0]], [[0, 1]]]), array([[[1, 1]], [[0, 1]]])
    units = [F.normalize(one.flatten(2), dim=1) for one in (student, teacher)]
    near(pairwise_distance(*(one.transpose(1, 2) @ one for one in units)), array(0.25))


def test_affinities_are_cosines_between_max_pooled_places_whatever_the_grid() -> None:
    features = torch.randn(2, 3, 8, 12)
    found = affinity(features)
    assert found.shape == affinity(torch.randn(2, 7, 5, 6)).shape == (2, 16, 16)
    assert_close(found.diagonal(dim1=1, dim2=2), torch.ones(2, 16))
    pooled = F.max_pool2d(features, (2, 3))[0].flatten(1)
    assert_close(found[0, 3, 9], F.cosine_similarity(pooled[:, 3], pooled[:, 9], dim=0))


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.02476391), (0.1, 0.47430822)])
def test_cross_image_worked(temperature: float, expected: float) -> None:
    """Rows are pixels: a loss over all four ordered pairs of two images, the mean of what each image gives."""
    student = array([[1, 0], [0, 1]], [[3, 4], [1, 0]]).transpose(1, 2)[..., None]
    teacher = array([[1, 0, 0], [0, 1, 0]], [[0, 0, 2], [1, 0, 0]]).transpose(1, 2)[..., None]
    near(cross_image_distance(student, teacher, temperature=temperature).mean(), array(expected)[0])


def test_an_image_that_a_teacher_did_not_answer_is_nobodys_partner() -> None:
    features, answered = torch.randn(5, 3, 2, 7), torch.tensor([True, False, True, True, False])
    theirs = features.where(answered[:, None, None, None], 0.0)
    near(cross_image_distance(features, theirs, answered)[answered], torch.zeros(3))


def test_an_absent_teacher_does_not_drown_the_others_learned_weights(
    student: Callable[[int], nn.Module], batch: Callable[..., Batch]
) -> None:
    learner, data = schemes.create("amtml-kd", student(3), Distill(), 3), batch(3)
    learner.adapt(data)
    teachers = data.teachers
    assert teachers is not None
    teachers.answered[:, 0] = False
    with torch.no_grad():
        learner.get_parameter("learned.projection").fill_(1.0)
        learner.get_parameter("learned.theta")[0] = 1e4
    weights = learner.weights(data)
    assert (weights[:, 0] == 0).all()
    assert (weights[:, 1:].std(1) > 1e-6).any()


def test_prototypes_worked() -> None:
    (ours, there), (theirs, also) = prototype_maps(FEATURES, MASK, 2), prototype_maps(OTHERS, MASK, 2)
    assert there.all()
    assert also.all()
    near(prototype_distance(ours, theirs, there & also), array(0.08366919))


def test_a_class_that_is_absent_has_no_prototype() -> None:
    maps, there = prototype_maps(FEATURES, MASK, 3)
    assert there.tolist() == [[True, True, False]]
    assert (maps[:, 2] == 0).all()
    near(prototype_distance(maps, torch.rand(1, 3, 2, 2).double(), torch.tensor([[False] * 3])), array(0.0))


def test_learned_weights_worked() -> None:
    b, projection = array([1, 2, -1]), torch.tensor([1, 0.5, 2], dtype=torch.float64)
    theta = array([1, 0, 1], [0, 1, 0], [0.5, 0.5, 0.5])
    scores = learned_scores(b, theta, projection)
    near(scores, array([-1, 1, 0]))
    near(scores.softmax(1), array([0.09003057, 0.66524096, 0.24472847]))


def test_relations_see_neither_scale_nor_turn() -> None:
    x = torch.randn(5, 7, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))[0]
    for loss in (rkd_distance, rkd_angle):
        near(loss(x, 3 * x @ turn + 2), torch.zeros((), dtype=torch.float64))
        assert loss(x, torch.randn(5, 7, dtype=torch.float64)) > 1e-3
        still = torch.ones(3, 7, requires_grad=True)
        loss(still, torch.randn(3, 7)).backward()  # type: ignore[no-untyped-call]
        assert still.grad is not None
        assert still.grad.isfinite().all()
        assert loss(x[:1], x[:1]) == 0


def test_relations_agree_with_their_definition() -> None:
    x, y = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)

    def distances(z: Tensor) -> Tensor:
        found = torch.cdist(z, z)
        return found / (found.sum() / 6)

    def angle(z: Tensor, i: int, j: int, k: int) -> Tensor:
        a, b = z[j] - z[i], z[k] - z[i]
        return F.cosine_similarity(a, b, dim=0)

    assert_close(rkd_distance(x, y), F.smooth_l1_loss(distances(x), distances(y)), atol=1e-6, rtol=1e-6)
    triples = [(i, j, k) for i in range(3) for j in range(3) for k in range(3)]
    ours, theirs = (
        torch.stack([angle(z, *t) if t[0] not in t[1:] else z.new_zeros(()) for t in triples]) for z in (x, y)
    )
    assert_close(rkd_angle(x, y), F.smooth_l1_loss(ours, theirs))


def test_the_critic_learns_who_is_the_teacher() -> None:
    torch.manual_seed(0)
    judge, teacher = critic(2), torch.zeros(5, 2, 16, 16)
    teacher[:, 1] = 1
    student = torch.full_like(teacher, 0.5)
    adam = torch.optim.Adam(judge.parameters(), lr=1e-3)
    before = critic_loss(judge, student, teacher, penalty=10.0)
    for _ in range(60):
        adam.zero_grad()
        critic_loss(judge, student, teacher, penalty=10.0).backward()  # type: ignore[no-untyped-call]
        adam.step()
    assert critic_loss(judge, student, teacher, penalty=10.0) < before
    assert judge(teacher).mean() > judge(student).mean()


def test_a_memory_keeps_the_newest_of_each_class() -> None:
    memory = Memory(2, 3, 2)
    assert memory.known().shape == (0, 2)
    memory.add(1, torch.tensor([[2.0, 0.0]]))
    memory.add(0, torch.tensor([[0.0, 3.0], [4.0, 0.0]]))
    assert_close(memory.known(), torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
    memory.add(0, torch.tensor([[-1.0, 0.0], [0.0, -1.0]]))
    assert_close(memory.known()[:3], torch.tensor([[0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]]))
    memory.add(0, torch.tensor([[1.0, 0.0]] * 5))
    assert_close(memory.known()[:3], torch.tensor([[1.0, 0.0]] * 3))
    again = Memory(2, 3, 2)
    again.load_state_dict(memory.state_dict())
    assert_close(again.known(), memory.known())
