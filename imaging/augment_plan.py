"""How much slices and patches are varied in training: numbers that a study may set."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Chance = Annotated[float, Field(ge=0, le=1)]


class Augment(BaseModel):
    """`[augment]` of study.toml: how slices are varied in training (AMTKD, section 4.1).

    Chances are a slice's, shares are of its side. All slices of a patch are varied alike.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    flip: Chance = 0.5
    """Chance to be turned upside down, and another to be turned left to right; for a patch one more, back to front."""
    quarter_turn: Chance = 0.0
    """Chance to be turned by one, two or three right angles in the plane (DSD, section 3.1: 0.1)."""
    affine: Chance = 0.5
    """Chance to be shifted, scaled and rotated. The paper gives none; 0.5 is albumentations' default."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 90
    """Turned by up to so many degrees either way."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Made larger or smaller by up to this share, alike along rows and columns."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0625
    """Moved along rows and columns by up to this share."""
    elastic: Chance = 0.1
    """Chance of an elastic distortion."""
    elastic_shift: Annotated[float, Field(ge=0, le=0.1)] = 0.01
    """Its root mean square displacement, a share. The paper gives none; albumentations' example for segmentation,
    alpha 120 at sigma 6 on 128 pixels, comes to about this."""
    elastic_sigma: Annotated[float, Field(ge=1 / 32, le=0.5)] = 0.05
    """Its smoothness, the deviation of the Gaussian that blurs it, a share."""
    grid: Chance = 0.1
    """Chance of a grid distortion: five cells a side, up to 30 % wider or narrower (albumentations' default)."""
    optical: Chance = 0.1
    """Chance of an optical distortion: a lens with a coefficient of up to 0.05 (albumentations' default)."""
    brightness_contrast: Chance = 0.2
    """Chance of another contrast and brightness."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Then: up to so much more or less contrast, a share (albumentations' default)."""
    brightness: Annotated[float, Field(ge=0, le=10)] = 0.2
    """Then: up to so much of a normalised image's unit more or less brightness (albumentations' default)."""
    foreground: Chance = 0.5
    """Chance that a patch to train on lies about a voxel of an organ, and not about any (MOD's authors: 1 to 1)."""
    dropout: Chance = 0.2
    """Chance of one or two holes, a tenth to a fifth of a side each (albumentations' default)."""


IDENTITY = Augment(flip=0, affine=0, elastic=0, grid=0, optical=0, brightness_contrast=0, dropout=0)
"""No augmentation; validation, answers and evaluation see slices as they are."""
