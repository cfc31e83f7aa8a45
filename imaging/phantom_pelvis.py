"""The male pelvis around a prostate as T2-weighted MR shows it: fat, muscle, bone, bladder and rectum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from imaging.phantom_scene import Scene
from imaging.phantom_shapes import Array, ellipsoid, region, rod, tube

SIDES = (-1, 1)
"""Right and left, as the sign of x."""
Filling = Literal["gas", "stool", "empty", "balloon"]


@dataclass(frozen=True)
class Tissue:
    """Signal of each tissue under one scanner's T2 weighting; urine is about 1."""

    fat: float
    muscle: float
    marrow: float
    wall: float
    """Walls of bladder and rectum, sphincter, fibrous stroma."""
    peripheral: float
    """Peripheral zone, seminal vesicles and slow venous blood: the three look alike."""
    transition: float
    urine: float = 1.05
    dark: float = 0.03
    """Cortical bone, gas, flow voids."""


@dataclass(frozen=True)
class Pelvis:
    """One patient's measures in mm; z = 0 at the middle of the gland."""

    gland: tuple[float, float, float]
    """Half axes of the prostate: across, front to back, foot to head."""
    bladder: tuple[float, float, float]
    """Half axes of the bladder."""
    rectum: float
    """Radius of the rectum behind the gland."""
    filling: Filling
    """Of the rectum."""
    fat: float
    """Under the skin of the belly."""
    size: float
    """Of the bony pelvis, about 1."""


def paint_pelvis(scene: Scene, body: Pelvis, tissue: Tissue) -> None:
    """Everything but the gland, back to front."""
    grain = scene.field(7.0, 2.2, 2.2)
    sheets = scene.threads(6.5, 0.10)
    _fat(scene, body, tissue, grain, sheets)
    muscle = tissue.muscle * (1 + 0.16 * grain) + 0.3 * tissue.fat * sheets * (grain > 0.2)
    _muscles(scene, body, muscle)
    _bones(scene, body, tissue, tissue.marrow * (1 + 0.07 * grain), muscle)
    _vessels(scene, body, tissue)
    _bladder(scene, body, tissue)
    _floor(scene, body, tissue, muscle)
    _rectum(scene, body, tissue, grain)


def _fat(scene: Scene, body: Pelvis, tissue: Tissue, grain: Array, sheets: Array) -> None:
    """Skin, and fat with its septa."""
    skin = ellipsoid((0, 30, 0), (158, 96 + body.fat, 900))
    lobes = scene.field(22.0)
    scene.paint(skin, 0.35 * tissue.fat)
    scene.paint(skin.grown(-2.5), tissue.fat * (1 + 0.04 * grain + 0.05 * lobes - 0.4 * sheets * np.clip(lobes, 0, 1)))


def _muscles(scene: Scene, body: Pelvis, muscle: Array) -> None:
    s = body.size
    for side in SIDES:
        for shape in (
            ellipsoid((side * 14, -66 * s, 45), (17, 6, 52), turn=side * 8),  # rectus abdominis
            ellipsoid((side * 46 * s, -18, -46), (54, 16, 38), turn=side * 42),  # obturator externus, adductors
            ellipsoid((side * 74 * s, -54, 20), (22, 15, 90), turn=side * 25),  # iliopsoas, pectineus
            ellipsoid((side * 60 * s, 92, 0), (42, 27, 120), turn=-side * 30),  # gluteus maximus
            ellipsoid((side * 90 * s, 40, -10), (19, 26, 60)),  # quadratus femoris, gemelli
            ellipsoid((side * 45 * s, 4, 2), (9.5, 44, 75), turn=side * 9),  # obturator internus, before its bone
        ):
            scene.paint(shape, muscle)


def _bones(scene: Scene, body: Pelvis, tissue: Tissue, marrow: Array, muscle: Array) -> None:
    """Marrow within a dark cortical rim: acetabulum with ischium, pubis with its upper ramus, femoral head, coccyx."""
    s = body.size
    for side in SIDES:
        head = ellipsoid((side * 87 * s, -4, 16), (25, 25, 25))
        lateral = ellipsoid((side * 280 * s, 0, 0), (200 * s, 900, 900))
        cup = head.grown(15) - head.grown(2.5) - lateral
        ischium = ellipsoid((side * 60 * s, 36, -22), (12, 17, 42), turn=side * 20)
        pubis = ellipsoid((side * 15 * s, -47 * s, -22), (12, 17, 20), turn=-side * 24)
        ramus = rod((side * 18 * s, -52 * s, -4), (side * 60 * s, -30, 20), 8)
        for bone, gain in ((cup.merged(ischium, 10), 1.0), (pubis.merged(ramus, 8), 1.0), (head, 1.25)):
            scene.paint(bone.grown(1.8), tissue.dark, soft_mm=0.3)
            scene.paint(bone, np.float32(gain) * marrow, soft_mm=0.3)
        scene.paint(ellipsoid((side * 39.5 * s, 6, 2), (5.5, 40, 70), turn=side * 8), muscle)  # obturator internus
    scene.paint(ellipsoid((0, -47 * s, -20), (3, 16, 20)), 1.3 * tissue.muscle)  # symphysis
    coccyx = tube([(-10, 0, 74, 5, 4), (15, 0, 82, 9, 6), (70, 0, 94, 16, 9)])
    scene.paint(coccyx.grown(1.5), tissue.dark)
    scene.paint(coccyx, 0.9 * marrow)


def _vessels(scene: Scene, body: Pelvis, tissue: Tissue) -> None:
    """Femoral to external iliac: the artery a flow void, the vein half bright."""
    s = body.size
    for side in SIDES:
        vein = rod((side * 52 * s, -58, -50), (side * 44 * s, -26, 70), 5.5)
        artery = rod((side * 62 * s, -62, -50), (side * 50 * s, -34, 70), 4.5)
        for vessel, blood in ((vein, 0.5 * (tissue.peripheral + tissue.dark)), (artery, tissue.dark)):
            scene.paint(vessel.grown(1), tissue.wall)
            scene.paint(vessel, blood)


def _bladder(scene: Scene, body: Pelvis, tissue: Tissue) -> None:
    rx, ry, rz = body.bladder
    centre = (0.0, -0.5 * ry - 4, 0.8 * body.gland[2] + 0.72 * rz)
    bladder = ellipsoid(centre, (rx, ry, rz), bend=0.08 * ry)
    scene.paint(bladder.grown(3 + 40 / rx), 0.8 * tissue.wall)
    scene.paint(bladder, tissue.urine, soft_mm=0.3)


def _floor(scene: Scene, body: Pelvis, tissue: Tissue, muscle: Array) -> None:
    """Levator ani as a funnel that hugs gland and rectum, the sphincters in its foot, the bulb of the penis below."""
    gx, gy, gz = body.gland
    back, r = gy + 2 * body.rectum, body.rectum
    funnel = tube(
        [
            (-gz - 34, 0, 24, 9, 22),
            (-gz - 8, 0, 16, 15, 28),
            (-0.3 * gz, 0, 12 + r / 2, gx + 3, 10 + back / 2),
            (0.3 * gz, 0, 14 + r / 2, gx + 9, 12 + back / 2),
        ]
    )
    sheet = (funnel.grown(2.6) - funnel) & region(lambda at: at.y + np.float32(0.4 * gy))
    scene.paint(sheet, muscle, soft_mm=0.5)
    scene.paint(funnel & region(lambda at: -at.z - np.float32(gz + 9)), 0.75 * tissue.wall)
    scene.paint(ellipsoid((0, -6, -gz - 27), (9, 11, 9)), 0.85 * tissue.peripheral)


def _rectum(scene: Scene, body: Pelvis, tissue: Tissue, grain: Array) -> None:
    """Anal canal to sigmoid: muscular wall, bright mucosa, and what fills it."""
    _, gy, gz = body.gland
    r, lean = body.rectum, float(scene.rng.normal(0, 3))
    lumen = tube(
        [
            (-gz - 40, 0, 36, 2, 4),
            (-gz - 14, 0, gy + 16, 3.5, 5),
            (-0.6 * gz, 0, 0.8 * gy + 4.5 + 0.9 * r, 0.95 * r, 0.85 * r),
            (0.3 * gz, lean, 0.72 * gy + 5.5 + r, 1.12 * r, r),
            (1.1 * gz, lean, 0.9 * gy + 7 + r, 1.1 * r, r),
            (gz + 45, 3 * lean, gy + 18 + r, 0.9 * r, 0.9 * r),
        ]
    )
    content = {
        "gas": tissue.dark + 0.02 * grain,
        "balloon": tissue.dark + 0 * grain,
        "stool": 0.55 * tissue.wall + 0.10 * grain,
        "empty": 0.8 * tissue.wall + 0.12 * grain,
    }[body.filling]
    scene.paint(lumen.grown(1.6 if body.filling == "balloon" else 3.6), 0.85 * tissue.wall)
    scene.paint(lumen.grown(0.8), 0.9 * tissue.peripheral)
    scene.paint(lumen, np.maximum(content, np.float32(0)))
