"""SKD: pixel-wise, pair-wise and holistic distillation (Liu et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from distill.losses.cross_entropy import cross_entropy, soft_cross_entropy
from distill.losses.structure import pairwise_distance
from distill.schemes.base import Batch
from distill.schemes.taught import Lesson, Taught, labelled_mean
from models.contents import Content
from models.knowledge import affinity
from study.plan import Distill

CRITIC_LR = 4e-4
"""Of their run script, throughout; at a student's 0.01 the critic's scores grow until nothing else counts."""


class Skd(Taught):
    """Pixels, pairs of places, and a critic who tells teacher from student (Liu et al. 2019).

    Departs: their critic sees logits and descends before the student; ours sees probabilities, whose scale no network
    can choose, and descends in the same step, each on its own term alone.
    """

    volumes = False

    def __init__(self, student: nn.Module, plan: Distill, classes: int) -> None:
        super().__init__(student, plan, classes)
        self.critic = critic(classes) if plan.skd.holistic else None

    @property
    def own_rates(self) -> Mapping[str, float]:
        return {"critic": CRITIC_LR} if self.critic is not None else {}

    @property
    def contents(self) -> tuple[Content, ...]:
        return ("logits", "affinity") if self.plan.skd.pair else ("logits",)

    @property
    def taps(self) -> tuple[str, ...]:
        return ("decoder",) if self.plan.skd.pair else ()

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        """lambda_1 pixel-wise, lambda_2 pair-wise and lambda_3 holistic (section 3), and what the critic descends."""
        plan, target = self.plan.skd, lesson.target(1.0)
        slices = lesson.heard.sum() if plan.pixels == "code" else 1
        terms = {"pixel": plan.pixel * slices * lesson.mean(soft_cross_entropy(lesson.logits, target))}
        if plan.pair:
            own, name = affinity(lesson.features["decoder"]), "affinity/decoder"
            terms["pair"] = plan.pair * lesson.distance(name, lambda told: pairwise_distance(own, told[name].float()))
        if self.critic is not None and lesson.heard.any():
            student, teacher = lesson.logits[lesson.heard].softmax(1), target[lesson.heard]
            frozen = {name: one.detach() for name, one in self.critic.named_parameters()}
            terms["holistic"] = -plan.holistic * functional_call(self.critic, frozen, (student,)).mean()
            terms["critic"] = critic_loss(self.critic, student.detach(), teacher, penalty=plan.penalty)
        return terms

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"ce": labelled_mean(cross_entropy, logits, batch)}


def critic(classes: int, *, width: int = 32) -> nn.Sequential:
    """A score (N, 1) for probability maps (N, C, H, W) of any size: high for what looks like the teacher's."""
    layers: list[nn.Module] = []
    for before, after in ((classes, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def critic_loss(judge: nn.Module, student: Tensor, teacher: Tensor, *, penalty: float) -> Tensor:
    """What the critic descends: its mean score of the student less that of the teacher, and the gradient penalty.

    Shapes: student and teacher (N, C, H, W). Source: WGAN-GP (Gulrajani et al. 2017), as SKD's holistic term takes it.
    """
    share = torch.rand(len(student), 1, 1, 1, device=student.device)
    between = (share * teacher + (1 - share) * student).detach().requires_grad_()
    (slope,) = torch.autograd.grad(judge(between).sum(), between, create_graph=True)
    steep = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    score: Tensor = judge(student).mean() - judge(teacher).mean() + penalty * steep
    return score
