"""The drawing half of augmentation: AMTKD's transforms by albumentations, numbers only; `Warp` applies them.

The one place that knows albumentations. It draws each transform's parameters from the slice's own generators, so a
seed and a position give the same move whatever thread asks, and nobody's global random state is read or changed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from imaging.augment_plan import IDENTITY, Augment
from imaging.warp import Warp

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks the network for a newer version
import albumentations as A

__all__ = ["IDENTITY", "Augment", "draw"]

Size = tuple[int, int]
Drawn = dict[str, dict[str, Any]]
"""Albumentations' own parameters of the transforms to be applied to one slice, by what they are called here."""

NODES = 32
"""Elastic distortions are drawn on a grid of 32 × 32 and stretched: alike at every resolution, and cheap. At the
slice's own, blurring repeats the noise at the border, and corners move by 40 % of the side at 384 pixels (measured)."""


def draw(plan: Augment, seed: int, *, size: Sequence[int], n: int) -> Warp:
    """The moves of n pictures of that size, slices (H, W) or patches (D, H, W).

    Picture i's depend on `plan`, `seed`, `size` and i alone. A patch's slices are moved alike, and may turn round.
    """
    rows, columns = size[-2:]
    upended = None
    if len(size) == 3:
        upended = torch.tensor([np.random.default_rng([seed, i, 3]).random() < plan.flip for i in range(n)])
    return replace(_drawn_in_plane(plan, seed, (rows, columns), n), upended=upended)


def _drawn_in_plane(plan: Augment, seed: int, size: Size, n: int) -> Warp:
    """The moves of n slices."""
    slices = [_draw_slice(plan, seed, position, size) for position in range(n)]
    bends = [_bend(drawn, size) for drawn in slices]
    moved = [i for i in range(n) if slices[i].keys() & {"affine", "quarter_turn"} or bends[i] is not None]
    shades = [drawn.get("brightness_contrast", {"alpha": 1.0, "beta": 0.0}) for drawn in slices]
    return Warp(
        flips=torch.tensor([_flips(slices[i]) if i not in moved else (False, False) for i in range(n)]),
        moved=torch.tensor(moved, dtype=torch.int64),
        theta=torch.tensor(np.array([_theta(slices[i], size) for i in moved]), dtype=torch.float32).view(-1, 2, 3),
        bent=torch.tensor([place for place, i in enumerate(moved) if bends[i] is not None], dtype=torch.int64),
        bend=torch.from_numpy(np.array([bend for bend in bends if bend is not None], np.float32)),
        gain=torch.tensor([shade["alpha"] for shade in shades]),
        offset=torch.tensor([shade["beta"] for shade in shades]),
        holes=tuple(hole for i, drawn in enumerate(slices) for hole in _holes(drawn, i)),
    )


@lru_cache(maxsize=8)
def _transforms(plan: Augment) -> dict[str, Any]:
    """Albumentations' transforms by what they are called here, in the order they are drawn."""
    sigma = plan.elastic_sigma * NODES
    # White noise of peak 1, so of deviation 1/3.5, keeps 1 / (2 √π sigma) of its deviation when blurred.
    alpha = plan.elastic_shift * NODES * 3.5 * 2 * np.sqrt(np.pi) * sigma
    return {
        "upside_down": A.VerticalFlip(p=plan.flip),
        "left_to_right": A.HorizontalFlip(p=plan.flip),
        "quarter_turn": A.RandomRotate90(p=plan.quarter_turn),
        "affine": A.Affine(
            rotate=(-plan.rotate_deg, plan.rotate_deg),
            scale=(1 - plan.scale, 1 + plan.scale),
            translate_percent=(-plan.shift, plan.shift),
            keep_ratio=True,
            p=plan.affine,
        ),
        "elastic": A.ElasticTransform(alpha=alpha, sigma=sigma, p=plan.elastic),
        "grid": A.GridDistortion(p=plan.grid),
        "optical": A.OpticalDistortion(p=plan.optical),
        "brightness_contrast": A.RandomBrightnessContrast(
            brightness_limit=plan.brightness, contrast_limit=plan.contrast, p=plan.brightness_contrast
        ),
        "dropout": A.CoarseDropout(p=plan.dropout),
    }


def _draw_slice(plan: Augment, seed: int, position: int, size: Size) -> Drawn:
    """What albumentations drew for one slice: the parameters of each transform that is to be applied."""
    generator = np.random.default_rng([seed, position])
    python = random.Random(int(generator.integers(1 << 63)))
    blank = np.zeros((1, 1), np.float32)  # brightness is drawn in units of this type's range, [0, 1]
    drawn: Drawn = {}
    for name, prototype in _transforms(plan).items():
        transform = copy(prototype)  # the random state is the copy's: threads share the prototypes
        transform.set_random_state(generator, python)
        if transform.should_apply():
            shape = (NODES, NODES) if name == "elastic" else size
            own = transform.get_params()
            if name == "quarter_turn":
                own["factor"] = int(generator.integers(1, 4))  # albumentations draws 0 too, which turns nothing
            drawn[name] = own | transform.get_params_dependent_on_data({"shape": shape}, {"image": blank})
    return drawn


def _flips(drawn: Drawn) -> tuple[bool, bool]:
    return "upside_down" in drawn, "left_to_right" in drawn


def _theta(drawn: Drawn, size: Size) -> NDArray[np.float64]:
    """The drawn flips, right angles and affine move (2, 3), from the result's coordinates in [-1, 1] to the slice's.

    Albumentations gives the slice's pixels to the result's: (3, 3), x before y, pixel centres at whole numbers.
    """
    (h, w), (upside_down, left_to_right) = size, _flips(drawn)
    unit = np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1]])
    pixels = np.linalg.inv(drawn["affine"]["matrix"]) if "affine" in drawn else np.eye(3)
    flip = np.diag([-1 if left_to_right else 1, -1 if upside_down else 1, 1])
    return np.asarray((flip @ _quarters(drawn, size) @ unit @ pixels @ np.linalg.inv(unit))[:2])


def _quarters(drawn: Drawn, size: Size) -> NDArray[np.float64]:
    """The drawn right angles (3, 3), counter-clockwise, in the same coordinates; a slice that is no square is cut."""
    h, w = size
    turn = np.array([[0, -h / w, 0], [w / h, 0, 0], [0, 0, 1]])
    return np.linalg.matrix_power(turn, drawn["quarter_turn"]["factor"] if "quarter_turn" in drawn else 0)


def _bend(drawn: Drawn, size: Size) -> NDArray[np.float32] | None:
    """The drawn distortions (2, H, W), added up, in units of [-1, 1]; None where there is none."""
    bends = [_displacement(drawn[name]) for name in ("grid", "optical") if name in drawn]
    if "elastic" in drawn:
        nodes = torch.from_numpy(_displacement(drawn["elastic"]))[None]
        bends.append(F.interpolate(nodes, size, mode="bicubic", align_corners=False)[0].numpy())
    return np.sum(bends, axis=0, dtype=np.float32) if bends else None


def _displacement(maps: dict[str, Any]) -> NDArray[np.float32]:
    """How far albumentations' maps lead from each pixel (2, h, w), x before y, in units of [-1, 1]."""
    x, y = maps["map_x"], maps["map_y"]
    h, w = x.shape
    away = np.stack([(x - np.arange(w)) * (2 / w), (y - np.arange(h)[:, None]) * (2 / h)])
    return away.astype(np.float32)


def _holes(drawn: Drawn, position: int) -> list[tuple[int, int, int, int, int]]:
    """The drawn holes; albumentations gives x before y."""
    boxes = drawn["dropout"]["holes"].tolist() if "dropout" in drawn else []
    return [(position, top, left, bottom, right) for left, top, right, bottom in boxes]
