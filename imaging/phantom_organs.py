"""Organs beside a spleen on CT: liver, kidneys, stomach, pancreas and gut, in Hounsfield units."""

from __future__ import annotations

import numpy as np

from imaging.phantom_abdomen import AIR, FAT, SIDES, WATER, Abdomen, Phase, Room
from imaging.phantom_scene import Scene
from imaging.phantom_shapes import ellipsoid, point, region, rod


def paint_liver(scene: Scene, body: Abdomen, room: Room, phase: Phase, *, metastases: int = 0) -> None:
    """Both lobes below the right dome, veins, fissures, gallbladder and dark foci."""
    s, rng = body.liver, scene.rng
    right = ellipsoid((-0.47 * body.trunk[0], -6, -4), (80 * s, 84 * s, 86 * s))
    left = ellipsoid((-4, -52, 22), (82 * s, 34 * s, 40 * s), turn=-6)
    fossa = ellipsoid((-18, 8, -38), (46, 34, 58)) | ellipsoid((-12, 42, 20), (42, 30, 80))
    liver = scene.fixed((right.merged(left, 30) - fossa) & room.hull)
    if body.ascites:
        scene.paint(liver.grown(0.7 * body.ascites) & room.hull, WATER)
    scene.paint(liver, phase.liver + 3 * scene.field(5.0))
    inner = liver.grown(-3)
    for _ in range(9):
        start = np.array([-28, 10, 45]) + rng.normal(0, 6, 3)
        end = np.array([-70, -20, 5]) + rng.uniform(-1, 1, 3) * (55, 50, 40)
        branch = rod(point(start), point(end), rng.uniform(2, 4.5))
        scene.paint(branch & inner, 0.85 * phase.vein + 0.15 * phase.liver)
    for _ in range(metastases):
        centre, r = np.array([-80, -10, 0]) + rng.uniform(-1, 1, 3) * (45, 45, 45), rng.uniform(5, 14)
        scene.paint(ellipsoid(point(centre), (r, r, r)) & inner, phase.liver - rng.uniform(20, 50), soft_mm=1.5)
    fissure = ellipsoid((-16, -62, -8), (2.5, 26, 40), turn=-12) | ellipsoid((-10, -4, 28), (22, 2.5, 26), turn=20)
    scene.paint(fissure & liver.grown(2), FAT + 40, soft_mm=1.5)
    gallbladder = ellipsoid((-46, -40, -48), (15, 20, 25), turn=25)
    scene.paint(gallbladder.grown(2), phase.gut)
    scene.paint(gallbladder, 12)


def paint_kidneys(scene: Scene, body: Abdomen, phase: Phase) -> None:
    """Each in its fat: cortex, pyramids, sinus and vein; the right one lower."""
    mix = 0.5 + 0.5 * np.tanh(3 * scene.field(11.0))
    for side in SIDES:
        x, y, z = side * body.kidney[0], body.kidney[1], body.kidney[2] - (18 if side < 0 else 0)
        kidney = ellipsoid((x, y, z), (25, 31, 54), turn=-35 * side)
        scene.paint(kidney.grown(5), FAT + 8)
        scene.paint(kidney, phase.cortex)
        scene.paint(kidney.grown(-7), phase.medulla + (phase.cortex - phase.medulla) * mix)
        scene.paint(ellipsoid((x - 15 * side, y - 9, z), (15, 11, 30), turn=35 * side), FAT + 30, soft_mm=1.5)
        scene.paint(rod((x - 15 * side, y - 8, z), (8 * side, y - 30, z + 6), 4), phase.vein)


def paint_stomach(scene: Scene, body: Abdomen, room: Room, phase: Phase) -> None:
    """Gas in front of fluid, food or swallowed contrast: the patient lies on the back."""
    full, gas_y, below = body.stomach
    fundus = ellipsoid((46, -8, 34), (32 * full, 34 * full, 30 * full))
    corpus = ellipsoid((58, -48, 2), (27 * full, 25 * full, 40), turn=20)
    antrum = rod((50, -60, -25), (-8, -58, -42), 15 * full)
    stomach = scene.fixed(fundus.merged(corpus, 25).merged(antrum, 15) & room.hull)
    scene.paint(stomach, phase.gut)
    lumen = stomach.grown(-4)
    food = 25 < below < 140
    scene.paint(lumen, below + (18 if food else 3) * scene.field(7.0))
    scene.paint(lumen & region(lambda at: np.float32(gas_y) - at.y), AIR + 30)


def paint_gut(scene: Scene, body: Abdomen, room: Room, phase: Phase) -> None:
    """Pancreas up to the hilum of the spleen, splenic vein, jejunum and colon."""
    rng, folds, y = scene.rng, scene.field(5.0), body.spine_y
    neck, tail = (2.0, y - 44, -16.0), (rng.uniform(58, 76), y - 24, rng.uniform(-2, 14))
    scene.paint(rod((-28, y - 34, -34), neck, 13) | rod(neck, tail, 10), phase.pancreas + 22 * np.minimum(folds, 0))
    scene.paint(rod((0, y - 34, -14), (tail[0], tail[1] + 9, tail[2]), 4.5), phase.vein)
    within = room.cavity.grown(-4)
    for _ in range(int(rng.integers(5, 10))):
        radii = (rng.uniform(11, 17), rng.uniform(9, 13), 14.0)
        loop = ellipsoid(point(rng.uniform((18, -62, -78), (88, 8, -22))), radii, turn=rng.uniform(-90, 90)) & within
        scene.paint(loop, phase.gut + 18 * folds)
        scene.paint(loop.grown(-4), rng.uniform(10, 0.9 * phase.gut))
    for x, front, z, r in ((0.56, -34, -44, 20), (0.2, -0.55 * body.trunk[1], -56, 21)):
        centre = (x * body.trunk[0] + rng.normal(0, 5), front, z + rng.normal(0, 6))
        colon = ellipsoid(centre, (1.3 * r, r, 1.2 * r)) & within
        scene.paint(colon, phase.gut)
        stool = np.float32(35) + 20 * folds
        scene.paint(colon.grown(-3), np.where(folds + 0.4 * rng.normal() > 0.2, np.float32(AIR + 40), stool))
