"""A prostate with its zones and the neighbours that look like it, under T2-weighted MR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.phantom_pelvis import SIDES, Filling, Pelvis, Tissue, paint_pelvis
from imaging.phantom_scene import Grid, Scene
from imaging.phantom_shapes import Shape, ellipsoid, region, rod

BENDS = ((70.0, 4.2), (28.0, 2.0), (12.0, 0.6))
"""(grain, deviation) in mm: whole organs lean, their outlines differ, their borders are uneven."""


@dataclass(frozen=True)
class Cohort:
    """Who comes to a site, and how its readers outline the gland."""

    volume_ml: tuple[float, float]
    """Median of the gland and the factor of one deviation (log-normal), kept within 28 and 70."""
    balloon: float
    """Share of patients with an endorectal coil."""
    cancer: float
    """Share of patients with a dark focus in the peripheral zone."""
    apex_mm: float = 0.0
    """So much of the gland's lower end these readers leave out."""


def patient(rng: np.random.Generator, cohort: Cohort) -> Pelvis:
    """One patient's measures. A balloon flattens the gland and makes it wider."""
    median, spread = cohort.volume_ml
    scale = (float(np.clip(median * spread ** rng.standard_normal(), 28, 70)) / 35) ** (1 / 3)
    fillings: list[Filling] = ["gas", "stool", "empty"]
    filling = fillings[int(rng.choice(3, p=[0.35, 0.35, 0.3]))]
    rectum = rng.uniform(*{"gas": (10, 18), "stool": (12, 19), "empty": (6, 9)}[filling])
    squeeze = 1.0
    if rng.random() < cohort.balloon:
        filling, rectum, squeeze = "balloon", rng.uniform(17, 22), rng.uniform(0.78, 0.88)
    across, along = rng.normal(1, 0.05), rng.normal(1, 0.06)
    gland = (23.8 * across / squeeze**0.6, 17.8 * squeeze / (across * along), 20.5 * along / squeeze**0.4)
    full = rng.uniform(0.55, 1.25)
    return Pelvis(
        gland=(scale * gland[0], scale * gland[1], scale * gland[2]),
        bladder=(34 * full, 27 * full * rng.uniform(0.8, 1.1), 26 * full),
        rectum=rectum,
        filling=filling,
        fat=rng.uniform(12, 45),
        size=rng.normal(1, 0.04),
    )


def paint_case(
    rng: np.random.Generator, grid: Grid, tissue: Tissue, cohort: Cohort
) -> tuple[Scene, NDArray[np.uint8], Pelvis]:
    """A pelvis before the scanner's blur and noise, the gland's mask (D, H, W), and the patient's measures."""
    body = patient(rng, cohort)
    x, y, z = np.clip(rng.normal(0, 1, 3), -2, 2) * (8, 7, 3.5)
    scene = Scene(grid, rng, centre=(x, y + 5, z), bends=BENDS, signal=0.0)
    paint_pelvis(scene, body, tissue)
    _neighbours(scene, body, tissue)
    gland = scene.fixed(gland_shape(rng, body))
    _zones(scene, body, tissue, gland)
    if rng.random() < cohort.cancer:
        _cancer(scene, body, tissue, gland)
    outline = gland & region(lambda at: at.z + np.float32(body.gland[2] - cohort.apex_mm))
    return scene, scene.inside(outline), body


def gland_shape(rng: np.random.Generator, body: Pelvis) -> Shape:
    """The whole gland: a chestnut, narrow at the apex, hollowed behind, bulging where hyperplasia grew."""
    rx, ry, rz = body.gland
    whole = ellipsoid((0, -0.10 * ry, 0), (rx, ry, rz), bend=0.22 * ry)
    apex = ellipsoid((0, -0.05 * ry, -0.55 * rz), (0.66 * rx, 0.8 * ry, 0.55 * rz))
    groove = ellipsoid((0, 1.55 * ry, 0.1 * rz), (0.7 * rx, 0.75 * ry, 1.3 * rz))
    gland = whole.merged(apex, 5) - groove
    for _ in range(int(rng.integers(0, 3))):
        x, y, z = rng.uniform((-0.7, -0.6, -0.3), (0.7, 0.1, 0.6)) * (rx, ry, rz)
        r = 0.45 * min(rx, ry, rz) * rng.uniform(0.9, 1.3)
        gland = gland.merged(ellipsoid((x, y, z), (r, r, r)), 8)
    if rx * ry * rz > 10_500 and rng.random() < 0.5:  # a median lobe, above 44 ml, lifts the bladder's floor
        gland = gland.merged(ellipsoid((0, -0.3 * ry, 0.95 * rz), (0.4 * rx, 0.5 * ry, 0.4 * rz)), 6)
    return gland


def _zones(scene: Scene, body: Pelvis, tissue: Tissue, gland: Shape) -> None:
    """Capsule, peripheral zone, transition zone with its nodules, fibrous stroma, central zone and urethra."""
    rx, ry, rz = body.gland
    mottle, nodes = scene.field(4.0), scene.field(7.5)
    scene.paint(gland.grown(1), 0.6 * tissue.wall, share=scene.rng.uniform(0.2, 0.9))  # the capsule is not always seen
    patches = scene.rng.uniform(0.0, 0.3) * np.tanh(2 * scene.field(14.0))
    scene.paint(gland, tissue.peripheral * (1 + 0.16 * mottle - 0.12 * np.maximum(nodes, 0) + patches))
    volume = 4.19e-3 * rx * ry * rz  # hyperplasia is what makes glands large
    share = float(np.clip(0.52 + 0.004 * (volume - 35) + scene.rng.normal(0, 0.04), 0.45, 0.8))
    core = ellipsoid(
        (0, -0.3 * ry, 0.12 * rz), (1.05 * share**0.8 * rx, 0.98 * share**0.6 * ry, 0.82 * rz), bend=0.1 * ry
    )
    scene.paint(core.grown(1.2) & gland, 0.55 * tissue.wall)
    core = scene.fixed(core & gland.grown(-1))
    scene.paint(core, tissue.transition * (1 + 0.3 * np.sin(3 * nodes + 1.2 * mottle) + 0.12 * mottle))
    _nodules(scene, body, tissue, core, count=int(scene.rng.integers(3, 5 + int(14 * share))))
    stroma = ellipsoid((0, -1.0 * ry, 0.1 * rz), (0.42 * rx, 0.30 * ry, 0.75 * rz))
    scene.paint(stroma & gland, 0.6 * tissue.wall, soft_mm=1.5)
    central = ellipsoid((0, 0.42 * ry, 0.72 * rz), (0.5 * rx, 0.3 * ry, 0.34 * rz))
    scene.paint(central & gland, 0.8 * tissue.wall, soft_mm=1.5, share=0.85)
    urethra = rod((0, -0.1 * ry, -rz - 12), (0, 0.12 * ry, -0.1 * rz), 3)
    scene.paint(urethra, 0.7 * tissue.wall)
    scene.paint(urethra.grown(-1.4), 0.95 * tissue.peripheral, soft_mm=0.5)


def _nodules(scene: Scene, body: Pelvis, tissue: Tissue, core: Shape, *, count: int) -> None:
    """Hyperplastic nodules, bright or dark, each with a dark rim."""
    rx, ry, rz = body.gland
    for _ in range(count):
        x, y, z = scene.rng.uniform(-0.55, 0.55, 3) * (rx, 0.9 * ry, 1.1 * rz)
        r = scene.rng.uniform(2.5, 7.5)
        nodule = ellipsoid((x, y - 0.3 * ry, z), (r, r * scene.rng.uniform(0.7, 1.1), r))
        gain = float(scene.rng.choice([0.6, 0.8, 1.25, 1.6, 1.8]))
        scene.paint(nodule.grown(0.9) & core, 0.5 * tissue.wall, share=0.8)
        scene.paint(nodule & core, gain * tissue.transition, soft_mm=0.5, share=0.9)


def _cancer(scene: Scene, body: Pelvis, tissue: Tissue, gland: Shape) -> None:
    """A dark lens in the peripheral zone of one side."""
    rx, ry, rz = body.gland
    side, rng = int(scene.rng.choice(SIDES)), scene.rng
    radii = (rng.uniform(5, 9), rng.uniform(3, 5), rng.uniform(5, 9))
    focus = ellipsoid((0.55 * side * rx, 0.5 * ry, rz * rng.uniform(-0.4, 0.3)), radii, turn=-30 * side)
    scene.paint(focus & gland, 0.75 * tissue.wall, soft_mm=1.0, share=0.9)


def _neighbours(scene: Scene, body: Pelvis, tissue: Tissue) -> None:
    """Seminal vesicles, veins, nerve bundles: bright as the peripheral zone. Sphincter, ducts: dark as the stroma."""
    rx, ry, rz = body.gland
    bright, dim, swollen = tissue.peripheral, 0.5 * tissue.wall, float(scene.rng.uniform(0.7, 1.6))
    veins = dim + (bright - dim) * (0.55 + 0.45 * np.tanh(2 * scene.field(4.0)))
    tubules = dim + (1.1 * bright - dim) * (0.6 + 0.4 * np.tanh(4 * scene.field(3.4)))
    for side in SIDES:
        length = scene.rng.uniform(14, 21)
        vesicle = ellipsoid((side * (length + 2), 0.72 * ry + 2, rz + 4), (length, 6, 9), turn=-14 * side)
        scene.paint(vesicle.grown(1), tissue.wall)
        scene.paint(vesicle, tubules)
        bundle = ellipsoid((0.86 * side * rx, 0.72 * ry, -0.1 * rz), (6 * swollen, 5, 0.9 * rz), turn=-40 * side)
        scene.paint(bundle, veins, soft_mm=1.0, share=0.8)
        lateral = ellipsoid(
            (side * (rx + 1.5), -0.2 * ry, 0.1 * rz), (3.5 * swollen, 0.75 * ry, 0.8 * rz), turn=8 * side
        )
        scene.paint(lateral, veins, soft_mm=1.0, share=0.85)
    plexus = ellipsoid((0, -1.15 * ry - 3, -0.45 * rz), (0.75 * rx, 6.5 * swollen, 0.75 * rz), bend=4)
    scene.paint(plexus, veins, soft_mm=1.0, share=0.9)
    scene.paint(ellipsoid((0, -0.08 * ry, -rz - 5), (8.5, 8.5, 11)), 0.9 * tissue.wall, soft_mm=0.5)
    ducts = ellipsoid((0, 0.6 * ry, rz + 8), (6, 4.5, 9))
    scene.paint(ducts, 0.5 * (tissue.wall + bright))
