"""`[distill.mod]` and `[teacher.mod]` of study.toml: online self-distillation and self-modelling (MOD)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from study.table import Plan

SMALL_HEADS = (1024, 256, 64)
"""Heads for a CPU: 180 800 parameters at 128 channels, where iBOT's 8192, 2048 and 256 have 7 082 240."""


class Mod(Plan):
    """A network beside a moving average of itself, on masked views of its own scans (Pang et al.).

    What the paper leaves open is iBOT's (Zhou et al. 2022), whose way it follows; what that has not either is ours.
    """

    tokenizer: bool = True
    """Whether the tokens of masked views are matched with those of the moving average (section III-A-1)."""
    predictor: bool = True
    """Whether what is masked is rebuilt (section III-A-2). Table III has each part alone, both, and neither."""
    mod_weight: float = Field(1.0, ge=0)
    """Weight of both parts beside the loss on masks (Eq. 5 and 9). Paper: 1. The authors' published logs add up with
    0.001 instead."""
    patch: float = Field(1.5, ge=0)
    """alpha, weight of the patch tokens (Eq. 3)."""
    token: float = Field(0.5, ge=0)
    """beta, weight of the class token (Eq. 3)."""
    rebuild: float = Field(1.0, ge=0)
    """lambda2, weight of the dense predictor (Eq. 5)."""
    dice: float = Field(1.0, ge=0)
    """lambda2, weight of the Dice loss on masks (Eq. 8)."""
    focal: float = Field(1.0, ge=0)
    """lambda1, weight of the focal loss on masks, gamma 2 (Eq. 8)."""
    ship: Literal["student", "teacher"] = "student"
    """Which network is validated and leaves: the one that is trained, or its moving average, which Algorithm 1 returns.
    """
    stage: str | None = None
    """Feature map whose tokens are matched, by its name in the U: `E4` is the one at 1/8, which patches of 32 voxels
    want, since their deepest has 8 tokens. When absent the deepest of the encoder (section III-A-1)."""
    ema: float = Field(0.996, ge=0, le=1)
    """How much of itself the moving average keeps at the first step; it rises to 1 along a cosine (section IV-B)."""
    mask: Literal["block", "random"] = "block"
    """How cells are hidden: in blocks (section III-A-1), or each by itself (section IV-B)."""
    ratio: float = Field(0.6, gt=0, lt=1)
    """Share of the cells that are hidden (section IV-B)."""
    mask_value: Literal["learned", "zero"] = "learned"
    """What a hidden voxel holds: a value learned for each channel, or 0, which spares the gradient with respect to the
    image, a tenth of a plain step (ours; iBOT learns one for its tokens)."""
    masked_views: Literal[1, 2] = 2
    """How many of the two views the student reads masked. Paper: both. Both are drawn alike, so one gives the same loss
    in expectation for half the student's masked passes (ours): a step takes 1.7 times a plain one, in place of 2.2
    to 2.4 (`benchmarks/volume_step.py`)."""
    segment: Literal["crop", "masked"] = "crop"
    """What the loss on masks sees: the crop itself, or its masked views, which spares a pass. The paper does not say.
    """
    class_on_patches: bool = False
    """Whether the moving average's class token teaches the student's masked patches too: a sentence after Eq. 2 says
    so, Fig. 2b has none of it."""
    heads: tuple[int, int, int] = (8192, 2048, 256)
    """Prototypes, width and bottleneck of the tokenizer's heads (iBOT); `[1024, 256, 64]` suits a CPU."""
    shared_head: bool = True
    """Whether class and patch tokens share the last layer too, as in iBOT's own runs."""
    student_temperature: float = Field(0.1, gt=0)
    """Temperature of the student's tokens (iBOT)."""
    token_temperature: float = Field(0.04, gt=0)
    """Temperature of the moving average's class token (iBOT)."""
    patch_temperature: tuple[float, float] = (0.04, 0.07)
    """Temperature of the moving average's patch tokens at the start, and when warm (iBOT)."""
    warm_up: float = Field(0.1, ge=0, le=1)
    """Share of the steps until it is warm (iBOT: 30 epochs, of the 300 in the authors' logs)."""
    still: float = Field(0.003, ge=0, le=1)
    """Share of the steps before the heads' last layer begins to learn (iBOT: one epoch, of those 300)."""
    centre_momentum: float = Field(0.9, ge=0, lt=1)
    """How much of themselves the centres of the tokens keep at a step (iBOT)."""
    decoder: Literal["transformer", "conv"] = "transformer"
    """What stands between tokens and rebuilt voxels: a transformer block or two convolutions (ours; the paper: light).
    """
    target: Literal["view", "input"] = "view"
    """What is rebuilt: the view that was masked (Eq. 4), or the crop before blur and contrast (Fig. 2c)."""
    blur: tuple[float, float] = (0.5, 1.5)
    """Standard deviation of the views' Gaussian blur, from and to, voxels (ours; the paper gives none)."""
    blur_share: float = Field(0.5, ge=0, le=1)
    """Share of the views that are blurred (ours)."""
    gamma: tuple[float, float] = (0.7, 1.5)
    """Exponent of the views' contrast, from and to (ours; the paper gives none)."""
    gamma_share: float = Field(0.8, ge=0, le=1)
    """Share of the views whose contrast changes (ours)."""
    scale: float = Field(0.1, ge=0, lt=1)
    """Most by which a view's intensities are scaled, up or down (section IV-B)."""
    shift: float = Field(0.1, ge=0)
    """Most by which they are shifted, up or down (section IV-B)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, (low, high) in {"blur": self.blur, "gamma": self.gamma}.items():
            if not 0 < low <= high:
                raise ValueError(f"`{name}` is {[low, high]}; write a number above 0 and one that is no lower")
        if min(self.heads) < 1:
            raise ValueError(f"`heads` is {list(self.heads)}; write three whole numbers of at least 1")
        if min(self.patch_temperature) <= 0:
            raise ValueError(f"`patch_temperature` is {list(self.patch_temperature)}; temperatures are above 0")
        return self
