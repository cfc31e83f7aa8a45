"""`[distill]` of study.toml: how the student is trained, and a table for each scheme with its authors' values."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from study.dsd_table import Dsd, Missu
from study.keys import faults
from study.mod_table import Mod
from study.schedule import Schedule
from study.table import Plan
from study.tables import Name, Options, Split, StudentName

COMMON = ("split", "compare", "variants")
"""Keys that a variant cannot have: `split` decides which slices the sites are asked about."""
Law = Literal[
    "uniform", "fixed", "agreement", "as-printed", "agreement-softmax", "record", "confidence", "best-of", "learned"
]
Attention = Literal["scaled", "summed", "as-printed"]


class Weights(Plan):
    """`[distill.weights]`: how much each teacher is heard on each slice."""

    law: Law | None = None
    """`agreement` gives the teacher with the better Dice on the slice more, `as-printed` the worse (AMTKD, after Eq.
    7), `agreement-softmax` the better much more, `record` too, and where a slice has no mask the better on the outlined
    ones, `confidence` the one with the lower cross-entropy (CA-MKD), `best-of` all to the best, `fixed` what stands
    below, `uniform` all alike, `learned` what is learned beside the student (AMTML-KD, with `amtml_kd.decay`). When
    absent the scheme's own: `agreement` for `amtkd`, `record` for `consensus`, `confidence` for `ca-mkd`, `learned` for
    `amtml-kd`; schemes for one teacher then hear one. `uniform` and `mono-teacher` take no other."""
    fixed: dict[str, float] = Field(default_factory=dict)
    """Site -> share, for the law `fixed`; a site that is not named has 0."""
    tau: float = Field(0.1, gt=0)
    """Sharpness of `agreement-softmax` and `record`: a loss lower by tau weighs 2.7 times as much."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.fixed.values(), default=0.0) < 0 or (self.fixed and not any(self.fixed.values())):
            raise ValueError(f"`fixed` needs shares of at least 0, one of them above, got {self.fixed}")
        if self.law == "fixed" and not self.fixed:
            raise ValueError("`law` is fixed, and `fixed` names no site's share")
        return self


class Amtkd(Plan):
    """`[distill.amtkd]`: the adaptive multi-teacher scheme (AMTKD, equations 1 to 7)."""

    dice: float = Field(0.2, ge=0)
    """alpha1, weight of the Dice loss (Eq. 5)."""
    lovasz: float = Field(0.3, ge=0)
    """alpha2, weight of the Lovász-Softmax loss (Eq. 5)."""
    alpha: float = Field(0.1, ge=0)
    """Weight of the intermediate loss, attention and region contrast (Eq. 6)."""
    attention: Attention = "scaled"
    """Eq. 3's L1 distance of maps of unit norm, `scaled` by the side of the feature grid, or `summed` over it, which
    grows with the side, so that `alpha` means something else at each size of slice and tap. `as-printed` norms the
    difference instead of the maps, and cannot tell near from far."""
    beta: float = Field(0.1, ge=0)
    """Weight of the temperature KL (Eq. 6)."""
    kl: Literal["teacher-first", "student-first"] = "teacher-first"
    """Direction of the divergence: as Hinton and the public codes, or as Eq. 2 prints it."""
    temperature: float = Field(4.0, gt=0)
    """lambda of Eq. 1; the paper gives none, 4 is EMKD's."""


class Kd(Plan):
    """`[distill.kd]`: Hinton's distillation."""

    weight: float = Field(0.9, ge=0)
    """Weight of the KL (Zagoruyko's and mdistiller's codes)."""
    temperature: float = Field(4.0, gt=0)
    """Temperature of the KL (the same codes)."""


class At(Plan):
    """`[distill.at]`: attention transfer (Zagoruyko and Komodakis 2017)."""

    weight: float = Field(1000.0, ge=0)
    """beta: it multiplies a mean over the map's places, as their code has it."""
    form: Literal["code", "as-printed"] = "code"
    """`code`: mean of the squared difference of unit maps; `as-printed`: half its L2 norm, which is far larger, so that
    `weight` has to be far smaller."""


class Skd(Plan):
    """`[distill.skd]`: structured knowledge distillation (Liu et al. 2019)."""

    pixel: float = Field(10.0, ge=0)
    """lambda of the cross-entropy with the teacher's probabilities."""
    pixels: Literal["mean", "code"] = "mean"
    """Mean over slices and pixels, or as their code has it summed over the batch's slices."""
    pair: float = Field(1.0, ge=0)
    """lambda of the pair-wise affinities (their run script: 0.5)."""
    holistic: float = Field(0.1, ge=0)
    """lambda of the adversarial term."""
    penalty: float = Field(10.0, ge=0)
    """Weight of the critic's gradient penalty."""


class Emkd(Plan):
    """`[distill.emkd]`: efficient medical image segmentation with knowledge distillation (Qin et al. 2021)."""

    prediction: float = Field(0.1, ge=0)
    """Weight of prediction maps (KL at temperature 4)."""
    importance: float = Field(0.9, ge=0)
    """Weight of importance maps (attention with p = 4)."""
    region: float = Field(0.9, ge=0)
    """Weight of region affinity."""


class Cirkd(Plan):
    """`[distill.cirkd]`: cross-image relations (Yang et al. 2022)."""

    kd: float = Field(1.0, ge=0)
    """Weight of the KL at temperature 1."""
    batch: float = Field(1.0, ge=0)
    """Weight of pixel relations within a batch."""
    pixel: float = Field(0.1, ge=0)
    """Weight of relations to the pixel memory."""
    region: float = Field(0.1, ge=0)
    """Weight of relations to the region memory."""
    temperature: float = Field(0.1, gt=0)
    """Temperature of the relations (their code: 0.1 throughout)."""
    grid: int = Field(16, ge=1, le=64)
    """Largest side of the grid whose pixels are related, N² grid⁴ relations in all; finer maps are averaged down."""
    pixels: int = Field(2000, ge=1)
    """Pixels remembered of each class (their code: 20 000, of which 4096 are drawn)."""
    regions: int = Field(1000, ge=1)
    """Regions remembered of each class (their code: 2000, of which 1024 are drawn)."""


class ProtoKd(Plan):
    """`[distill.protokd]`: prototype knowledge distillation (Wang et al. 2023)."""

    kd: float = Field(10.0, ge=0)
    """Weight of the KL."""
    form: Literal["code", "usual"] = "code"
    """`code`: the KL is a mean over classes too, without lambda²; `usual`: summed over classes, times lambda²."""
    temperature: float = Field(10.0, gt=0)
    """Temperature of the KL."""
    prototypes: float = Field(0.1, ge=0)
    """Weight of the distance of prototype maps."""


class AmtmlKd(Plan):
    """`[distill.amtml_kd]`: adaptive multi-teacher multi-level distillation (Liu et al. 2020)."""

    a: float = Field(0.7, ge=0, le=1)
    """2 a multiplies the KL to the learned mixture; 1 - a the cross-entropy where the loss on masks is their own."""
    temperature: float = Field(5.0, gt=0)
    """Temperature of the KL."""
    angle: float = Field(1.0, ge=0)
    """Weight of relational distillation's angles."""
    distance: float = Field(1.0, ge=0)
    """Weight of relational distillation's distances."""
    hints: float = Field(0.0, ge=0)
    """Weight of the hints (theirs: 1); they need `features`, whole feature maps of every teacher."""
    decay: float = Field(0.1, ge=0)
    """Weight of the squared norms of what the teachers' weights are learned by."""


class CaMkd(Plan):
    """`[distill.ca_mkd]`: confidence-aware multi-teacher distillation (Zhang et al. 2022)."""

    kd: float = Field(1.0, ge=0)
    """Weight of the KL to each teacher, at temperature 4."""
    form: Literal["as-printed", "code"] = "as-printed"
    """`as-printed`: weights of the teachers add up to 1; `code`: their code divides by the number of teachers again."""
    hints: float = Field(0.0, ge=0)
    """Weight of the hints (theirs: 50); they need `features`, whole feature maps of every teacher."""


class Consensus(Plan):
    """`[distill.consensus]`: our own scheme, the first of all in the mean on real scans and on prostate phantoms."""

    kl: float = Field(1.0, ge=0)
    """Weight of the KL to the teachers' mixture."""
    overlap: float = Field(1.0, ge=0)
    """Weight of the Dice loss with the teachers' mixture."""


class Distill(Plan):
    """`[distill]`: the central training of the student."""

    scheme: str = "consensus"
    """The scheme whose student is shipped; `preceptor schemes` lists them."""
    network: StudentName | None = None
    """For variants: the student's network where it is not `[student]`'s."""
    network_options: Options = Field(default_factory=dict)
    """For variants that name a `network`: its options."""
    start: Name | None = None
    """Student of the same run whose weights this one begins with, trained before it; `probe` judges that one's
    features. For variants, such as `mod-probe = { scheme = "probe", start = "mod" }`."""
    compare: list[str] = Field(default_factory=lambda: ["supervised", "mono-teacher", "uniform", "amtkd"])
    """Schemes trained beside it, for the report."""
    steps: int = Field(4000, ge=1, le=10_000_000)
    """Optimiser steps."""
    batch: int = Field(16, ge=2, le=1024)
    """Slices or patches a step (EMKD code: 16)."""
    lr: float = Field(0.01, gt=0, le=10)
    """CyclicLR's upper learning rate for Adam (AMTKD, section 4.3)."""
    lr_min: float = Field(1e-6, ge=0)
    """CyclicLR's lower learning rate (AMTKD, section 4.3)."""
    lr_half_cycle: int = Field(2000, ge=1)
    """CyclicLR's step size: steps from the lower rate to the upper (AMTKD, section 4.3)."""
    schedule: Literal["cyclic"] | Schedule = "cyclic"
    """How the learning rate goes: between both as CyclicLR, or from `lr` as `teacher.schedule` has it."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled (AdamW), where it is above 0. DSD's code: 1e-5; MOD: 0.05."""
    labelled_share: float = Field(0.5, ge=0, le=1)
    """Share of each batch drawn from slices with a mask, where some slices have none."""
    validate_every: int = Field(200, ge=1)
    """Steps between two validations on the study lead's validation patients, and between two checkpoints."""
    split: Split = (0.8, 0.2, 0.0)
    """Shares of the study lead's patients for training, validation and test."""
    masks: int | None = Field(None, ge=0)
    """Only the first so many training patients with a mask are learned from with it, the others as if they had none."""
    without: list[str] = Field(default_factory=list)
    """Sites whose teachers are not heard."""
    mono_teacher: str | None = None
    """Site whose teacher `mono-teacher` learns from; when absent the one with the best validation Dice at home."""
    threads: int = Field(2, ge=1, le=512)
    """CPU threads; the student is the same again, bit for bit, only at the same number."""
    patience: int | None = Field(None, ge=1)
    """Validations without a better Dice before training ends; when absent it goes on to `steps`."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest L2 norm of a step's gradients, of the student and of all that a scheme learns beside it together; larger
    ones are scaled down to it, where it is given."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """What the student is trained on; `auto` takes a GPU where there is one. On another it differs in its last bits."""
    devices: int = Field(1, ge=1, le=1024)
    """Processes on a machine, each with its own GPU or `threads`, that share every batch and average gradients."""
    nodes: int = Field(1, ge=1, le=1024)
    """Machines; torchrun or Slurm starts the same command on each, in a run folder that all of them see."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """What the student computes in; losses and weights stay in 32 bits. `16-mixed` needs a GPU."""
    segmentation: Literal["amtkd", "own"] = "amtkd"
    """Loss on the masks: AMTKD's Dice and Lovász for all schemes, so that they differ by what they learn from teachers
    alone, or what each scheme's own authors took."""
    weights: Weights = Weights()
    amtkd: Amtkd = Amtkd()
    kd: Kd = Kd()
    at: At = At()
    skd: Skd = Skd()
    emkd: Emkd = Emkd()
    cirkd: Cirkd = Cirkd()
    protokd: ProtoKd = ProtoKd()
    amtml_kd: AmtmlKd = AmtmlKd()
    ca_mkd: CaMkd = CaMkd()
    consensus: Consensus = Consensus()
    dsd: Dsd = Dsd()
    missu: Missu = Missu()
    mod: Mod = Mod()
    variants: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Students trained beside, under names of their own, by other values of some keys of this table: such as
    `[distill.variants.sharp]` with `weights = { law = "agreement-softmax" }`. What is not named stays."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.compare)) < len(self.compare):
            raise ValueError(f"`compare` names a scheme twice: {', '.join(self.compare)}")
        if self.lr_min > self.lr:
            raise ValueError(f"`lr_min` ({self.lr_min}) is above `lr` ({self.lr})")
        if self.batch % (self.devices * self.nodes):
            shared = f"{self.devices} devices" + (f" on each of {self.nodes} nodes" if self.nodes > 1 else "")
            raise ValueError(f"`batch` ({self.batch}) cannot be shared evenly by {shared}")
        if self.precision == "16-mixed" and self.device == "cpu":
            raise ValueError("`precision` 16-mixed needs a GPU; bf16-mixed works on the CPU too")
        for name in self.variants:
            self.of(name)
        for name in self.students:
            self._check_start(name)
        return self

    def _check_start(self, name: str) -> None:
        own = self.variants.get(name, {}).get("start")
        if own is not None and own not in self.students:
            named = ", ".join(self.students)
            raise ValueError(f"`variants.{name}.start`: no student of this study is called `{own}`. There are: {named}")
        passed = [name]
        while (start := self.of(passed[-1]).start) is not None and start in self.students:
            if start in passed:
                raise ValueError(f"`start` leads in a circle: {', '.join([*passed, start])}")
            passed.append(start)

    def _started(self, name: str) -> dict[str, None]:
        return {"start": None} if self.start == name else {}  # nobody begins with itself

    @property
    def students(self) -> list[str]:
        """Every student that is trained, by name, the one that is shipped first."""
        return list(dict.fromkeys([self.scheme, *self.compare, *self.variants]))

    def of(self, name: str) -> Self:
        """How the student of that name is trained: a scheme's by these values, a variant's by its own.

        Raises: ValueError where a variant's values do not fit.
        """
        if name not in self.variants:
            return self.model_copy(update={"scheme": name, "variants": {}} | self._started(name))
        if common := [key for key in COMMON if key in self.variants[name]]:
            raise ValueError(f"`variants.{name}.{common[0]}` cannot differ: it is the same for all students of a study")
        mine = self.model_dump(mode="json") | {"variants": {}} | self._started(name)
        try:
            return self.strictly(_merged(mine, self.variants[name]))
        except ValidationError as error:
            raise ValueError(f"`variants.{name}`: {faults(error, file='[distill]', plan=type(self))}") from error


def _merged(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """`values` with `others` in their place, table by table; a table of free keys (`fixed`) as a whole."""
    found = dict(values)
    for key, other in others.items():
        mine = found.get(key)
        free = key == "fixed" or not (isinstance(mine, dict) and isinstance(other, dict))
        found[key] = other if free else _merged(dict(mine or {}), other)
    return found
