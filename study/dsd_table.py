"""`dsd` and `missu` of study.toml: how one network teaches itself, with its authors' values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from study.table import Plan

Variant = Literal["basic", "ds", "sdd", "sde", "dsd", "mean-teacher", "reversed-teacher", "feature-l2"]


class Dsd(Plan):
    """Dual self-distillation in U-shaped networks (DSD, equations 1 to 6).

    A weight of 0 leaves its term out, and the heads that only this term needs.
    """

    variant: Variant = "dsd"
    """`basic` the mask on the output alone (Eq. 1), `ds` deep supervision of the decoder beside it (Eq. 3), `sdd` that
    and decoder stages that learn from the decoder's last, `sde` that and encoder stages that learn from the encoder's
    deepest, `dsd` all of it (Eq. 5; Table 5). Its rivals (Table 6) learn from other teachers: `mean-teacher` from the
    mean of a side's stages, `reversed-teacher` from the stage at the side's other end. `feature-l2` adds L2 distances
    of pooled features to `dsd` (section 4)."""
    eta: float = Field(1.0, ge=0)
    """Weight of deep supervision, the sum of four stages' losses on the mask (Eq. 3; section 3.1)."""
    alpha_encoder: float = Field(1.0, ge=0)
    """alpha1, weight of the sum of the encoder's KLs (Eq. 6)."""
    alpha_decoder: float = Field(1.0, ge=0)
    """alpha2, weight of the sum of the decoder's KLs (Eq. 6)."""
    temperature: float = Field(3.0, gt=0)
    """tau of Eq. 2, in the KLs alone: the losses on the mask take it as 1, as the authors' code does."""
    tau_squared: bool = True
    """KLs times tau², as in the authors' code, so that their gradients keep their size whatever tau; Eq. 4 prints no
    factor."""
    squared_pred: bool = False
    """Dice with squared denominators and no smoothing, as Eq. 1 prints it; the authors' code, whose results are the
    printed ones, has linear ones and 1e-5."""
    detach_teacher: bool = False
    """Whether the KLs leave the teaching stage as it is. The authors' code lets them pull it too; detached, the head of
    the encoder's deepest stage keeps its initial weights, since no other loss reaches it."""
    mean_of: Literal["probabilities", "logits"] = "probabilities"
    """What the mean teacher is the mean of; the paper says `outputs` (Table 6)."""
    feature: float = Field(1e-4, ge=0)
    """Weight of the L2 distances of `feature-l2` (the authors' code)."""

    @property
    def weights(self) -> dict[str, float]:
        """Terms beside the one on the output, those alone that weigh anything: `ds`, `kl_enc`, `kl_dec`, `l2`."""
        of = {"ds": self.eta, "kl_enc": self.alpha_encoder, "kl_dec": self.alpha_decoder, "l2": self.feature}
        return {term: weight for term, weight in of.items() if weight > 0 and term in _TERMS.get(self.variant, _ALL)}


class Missu(Plan):
    """MISSU's self-distillation, as DSD's authors set it against theirs on UNETR (DSD, section 3.6)."""

    weight: float = Field(1.0, ge=0)
    """Weight of the sum of the encoder stages' KLs."""
    temperature: float = Field(1.0, gt=0)
    """Of the softmax over feature channels (MISSU's code)."""
    squared_pred: bool = False
    """As `dsd.squared_pred`."""
    detach_teacher: bool = True
    """Whether the KLs leave the multi-scale blocks as they are, as MISSU's code does with its teachers; nothing else
    reaches them, so that they keep their initial weights. At `false` they learn beside their stages."""


_ALL = ("ds", "kl_enc", "kl_dec")
_TERMS: dict[str, tuple[str, ...]] = {
    "basic": (),
    "ds": ("ds",),
    "sdd": ("ds", "kl_dec"),
    "sde": ("ds", "kl_enc"),
    "feature-l2": (*_ALL, "l2"),
}
