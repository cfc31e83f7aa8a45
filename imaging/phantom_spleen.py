"""A spleen of widely varying shape on CT, and the patients it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.phantom_abdomen import AIR, WATER, Abdomen, Phase, Room, paint_chest, paint_spine, paint_trunk
from imaging.phantom_organs import paint_gut, paint_kidneys, paint_liver, paint_stomach
from imaging.phantom_scene import Grid, Scene
from imaging.phantom_shapes import Shape, ellipsoid, point

BENDS = ((90.0, 3.6), (40.0, 2.2), (18.0, 0.7))
"""(grain, deviation) in mm: the trunk leans, organs differ, their borders are uneven."""


@dataclass(frozen=True)
class Clinic:
    """Who comes to a site, and when after contrast they are scanned."""

    phases: tuple[tuple[Phase, float], ...]
    """Contrast phases and their shares of the patients."""
    volume_ml: tuple[float, float]
    """Median of the spleen and the factor of one deviation (log-normal), kept within 160 and 310 before
    neighbours mould it."""
    liver: float
    """Mean size of the liver: 1 healthy, 0.9 shrunken."""
    ascites: float
    """Share of patients with fluid in the belly."""
    oral: float
    """Share of patients who drank contrast."""
    metastases: float
    """Share of patients with dark foci in the liver."""


def patient(rng: np.random.Generator, clinic: Clinic) -> Abdomen:
    """One patient's measures. The stomach holds contrast, water, food, or something that looks like spleen."""
    across = float(np.clip(rng.normal(164, 8), 148, 178))
    trunk = (across, float(np.clip(across * rng.normal(0.73, 0.03), 102, 130)))
    fat, left = rng.uniform(7, 24), rng.uniform(52, 70)
    others = (1 - clinic.oral) / 3
    low, high = [(160, 320), (0, 25), (30, 75), (85, 135)][int(rng.choice(4, p=[clinic.oral, others, others, others]))]
    return Abdomen(
        trunk=trunk,
        fat=fat,
        domes=(left + rng.uniform(4, 16), left),
        liver=clinic.liver * rng.normal(1, 0.06),
        ascites=rng.uniform(4, 12) if rng.random() < clinic.ascites else 0.0,
        stomach=(rng.uniform(0.7, 1.2), rng.uniform(-75, -25), rng.uniform(low, high)),
        kidney=(rng.uniform(56, 64), trunk[1] - 0.5 * fat - 50, rng.uniform(-62, -40)),
    )


def paint_case(rng: np.random.Generator, grid: Grid, clinic: Clinic) -> tuple[Scene, NDArray[np.uint8], Phase]:
    """An abdomen in HU before the scanner's blur and noise, the spleen's mask (D, H, W), and the contrast phase."""
    body = patient(rng, clinic)
    phases, shares = zip(*clinic.phases, strict=True)
    phase = phases[int(rng.choice(len(phases), p=shares))]
    x, y, z = rng.normal(0, 1, 3) * (5, 5, 6)
    scene = Scene(grid, rng, centre=(x, y, z + 4), bends=BENDS, signal=AIR)
    room = Room.within(scene, body)
    paint_trunk(scene, body, room)
    paint_chest(scene, body, room, phase)
    paint_spine(scene, body, phase)
    foci = int(rng.integers(2, 8)) if rng.random() < clinic.metastases else 0
    paint_liver(scene, body, room, phase, metastases=foci)
    paint_kidneys(scene, body, phase)
    paint_gut(scene, body, room, phase)
    paint_stomach(scene, body, room, phase)
    spleen = scene.fixed(spleen_shape(rng, body, clinic) & room.hull)
    _pulp(scene, body, room, spleen, phase)
    return scene, scene.inside(spleen), phase


def spleen_shape(rng: np.random.Generator, body: Abdomen, clinic: Clinic) -> Shape:
    """A banana behind the stomach, with lobes and a notch, moulded by kidney and hilum; the ribs cut it off outside."""
    median, spread = clinic.volume_ml
    size = (float(np.clip(median * spread ** rng.standard_normal(), 160, 310)) / 135) ** (1 / 3)
    slim = rng.normal(1, 0.10)
    radii = (54 * size * slim, 25 * size / slim**0.5, 50 * size / slim**0.5 * rng.normal(1, 0.08))
    (rx, ry), (dx, dy, z) = body.trunk, rng.normal(0, 1, 3) * (3, 4, 4)
    x, y = 0.6 * (rx - body.fat) + dx, 0.3 * ry + dy
    spleen = ellipsoid((x, y, z), radii, turn=rng.normal(-52, 9), bend=-size * rng.uniform(6, 20))
    for _ in range(int(rng.integers(1, 4))):
        r = size * rng.uniform(14, 22)
        spleen = spleen.merged(ellipsoid(point((x, y, z) + rng.uniform(-1, 1, 3) * (18, 18, 34)), (r, r, 1.3 * r)), 12)
    notch = ellipsoid((x + 10, y - 42 * size, z - 8), (20, rng.uniform(6, 16), 9), turn=20)
    hilum = ellipsoid((x - 26 * size, y - 20 * size, z), (rng.uniform(16, 26), 20, 34 * size))
    kidney = ellipsoid(body.kidney, (30, 36, 59), turn=-35)
    return spleen - notch - hilum - kidney


def _pulp(scene: Scene, body: Abdomen, room: Room, spleen: Shape, phase: Phase) -> None:
    """The spleen, striped in the arterial phase, in its ascites; and the small second spleen some people have."""
    if body.ascites:
        scene.paint(spleen.grown(0.6 * body.ascites) & room.hull, WATER)
    pulp = phase.spleen + phase.stripes * np.sin(3.5 * scene.field(16.0)) + 2.5 * scene.field(4.0)
    scene.paint(spleen, pulp)
    if scene.rng.random() < 0.25:
        r = scene.rng.uniform(5, 8)
        scene.paint(ellipsoid((0.36 * body.trunk[0], 0.12 * body.trunk[1], -12), (r, r, r)), pulp)
