"""The online tokenizer: a student's tokens of what is masked, matched with those of its average, which sees it all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from study.learners.ema import follow, follower
from study.learners.masking import tokens_of
from study.mod_table import Mod


class Heads(nn.Module):
    """What makes tokens (…, c) comparable: (…, K) cosines with K prototypes, apart for class and patches, or not.

    Linear, GELU, Linear, GELU, Linear, unit length; prototypes of unit length. Source: iBOT, `iBOTHead`.
    """

    def __init__(self, c: int, sizes: tuple[int, int, int], *, shared: bool = True) -> None:
        super().__init__()
        prototypes, width, bottleneck = sizes
        self.mlp = nn.Sequential(
            nn.Linear(c, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, bottleneck)
        )
        self.prototypes = nn.ParameterList(torch.empty(prototypes, bottleneck) for _ in range(1 if shared else 2))
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.trunc_normal_(weight, std=0.02)
            else:
                nn.init.zeros_(weight)

    def forward(self, classes: Tensor, patches: Tensor, *, still: bool = False) -> tuple[Tensor, Tensor]:
        """Logits of class tokens (n, c) and of patch tokens (m, c): (n, K) and (m, K); `still` leaves the last layer
        without a gradient.
        """
        short = F.normalize(self.mlp(torch.cat([classes, patches])), dim=1)
        layers = [F.normalize(layer.detach() if still else layer, dim=1) for layer in self.prototypes]
        return short[: len(classes)] @ layers[0].T, short[len(classes) :] @ layers[-1].T


@dataclass(frozen=True)
class Warmth:
    """What changes as training goes on."""

    patch_temperature: float
    still: bool
    """Whether the heads' last layer does not learn yet."""


def warmth(step: int, steps: int, table: Mod) -> Warmth:
    """How it is when `step` of `steps` are done."""
    first, last = table.patch_temperature
    share = min(1.0, step / (table.warm_up * steps)) if table.warm_up else 1.0
    return Warmth(first + (last - first) * share, step < table.still * steps)


class Tokenizer(nn.Module):
    """The losses between tokens, and all that has state in them: heads, their average, and the centres."""

    centre_token: Tensor
    centre_patch: Tensor

    def __init__(self, c: int, table: Mod) -> None:
        super().__init__()
        self.table = table
        self.heads = Heads(c, table.heads, shared=table.shared_head)
        self.average = follower(self.heads)
        self.register_buffer("centre_token", torch.zeros(table.heads[0]))
        self.register_buffer("centre_patch", torch.zeros(table.heads[0]))

    def follow(self, keep: float) -> None:
        """Let the average of the heads follow them."""
        follow(self.average, self.heads, keep)

    def forward(self, student: Tensor, teacher: Tensor, hidden: Tensor, now: Warmth) -> dict[str, Tensor]:
        """`patch` (Eq. 1) and `token` (Eq. 2), scalars, and the centres moved on.

        Shapes: student (V N, c, *grid), maps of V masked views, 1 or 2; teacher (2 N, c, *grid), of both views as they
        are; hidden (V N, *grid) bool, as many cells in each. Patches learn from the same view, hidden ones alone; class
        tokens, means of the map, from the other. Source: MOD, Eq. 1 to 3, read as iBOT.
        Departs: Eq. 1 divides by all patches and has no softmax; Eq. 2 masks the class token, which is no patch.
        """
        n, images = len(teacher) // 2, len(student)
        own = tokens_of(student)[hidden.flatten(1)]
        student_token, student_patch = self.heads(student.flatten(2).mean(2), own, still=now.still)
        with torch.no_grad():
            raw_token, raw_patch = self.average(teacher.flatten(2).mean(2), tokens_of(teacher).flatten(0, 1))
            seen = raw_patch.view(len(teacher), -1, raw_patch.shape[1])[:images][hidden.flatten(1)]
            patch = target(seen, self.centre_patch, now.patch_temperature)
            token = target(raw_token.roll(n, 0)[:images], self.centre_token, self.table.token_temperature)
        terms = {"patch": self._apart(student_patch, patch), "token": self._apart(student_token, token)}
        if self.table.class_on_patches:
            each = token.repeat_interleave(len(own) // images, 0)  # of the view that the patch is not of
            terms["token"] = terms["token"] + self._apart(student_patch, each)
        if self.training:
            self.centre_token.copy_(moved(self.centre_token, raw_token, self.table.centre_momentum))
            self.centre_patch.copy_(moved(self.centre_patch, raw_patch, self.table.centre_momentum))
        return terms

    def _apart(self, student: Tensor, probs: Tensor) -> Tensor:
        return token_loss(student, probs, self.table.student_temperature).mean()


def target(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """softmax((z - centre) / temperature), (…, K) of (…, K) and (K,). Source: iBOT, centring and sharpening."""
    return ((teacher - centre) / temperature).softmax(-1)


def token_loss(student: Tensor, probs: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy -Σ p log softmax(z / temperature) of each token, (…,), of logits and probabilities (…, K).

    Source: MOD, Eq. 1. Departs: no softmax is printed there; the form is iBOT's.
    """
    return -(probs * (student / temperature).log_softmax(-1)).sum(-1)


def moved(centre: Tensor, teacher: Tensor, keep: float) -> Tensor:
    """The next centre, keep · centre + (1 - keep) · mean of the logits (n, K), over all processes. Source: iBOT."""
    return keep * centre + (1 - keep) * _everywhere(teacher.mean(0))


def _everywhere(mean: Tensor) -> Tensor:
    """The mean of this process's and the others', where there are others."""
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    dist.all_reduce(mean)
    return mean / dist.get_world_size()
