"""The trunk around a spleen as CT shows it, in Hounsfield units: skin to ribs, spine, great vessels, chest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imaging.phantom_scene import Scene
from imaging.phantom_shapes import Array, Point, Points, Shape, ellipsoid, region, rod, single, tube

AIR, LUNG, FAT, WATER, MUSCLE, MARROW, CORTEX = -1000.0, -850.0, -105.0, 8.0, 55.0, 180.0, 520.0
"""HU of what contrast does not change."""
SIDES = (-1, 1)
"""Right and left, as the sign of x."""


@dataclass(frozen=True)
class Phase:
    """Mean HU of each organ some time after contrast was given."""

    name: str
    aorta: float
    vein: float
    liver: float
    spleen: float
    cortex: float
    medulla: float
    pancreas: float
    gut: float
    stripes: float = 0.0
    """Swing of the spleen's stripes, where its pulp fills unevenly."""


NATIVE = Phase("native", aorta=42, vein=40, liver=58, spleen=48, cortex=32, medulla=30, pancreas=38, gut=36)
ARTERIAL = Phase(
    "arterial", aorta=310, vein=95, liver=74, spleen=118, cortex=175, medulla=75, pancreas=105, gut=80, stripes=24
)
PORTAL = Phase(
    "portal venous", aorta=160, vein=172, liver=110, spleen=122, cortex=185, medulla=150, pancreas=92, gut=85
)
DELAYED = Phase("delayed", aorta=118, vein=122, liver=92, spleen=98, cortex=140, medulla=150, pancreas=76, gut=70)


@dataclass(frozen=True)
class Abdomen:
    """One patient's measures in mm; z = 0 at the middle of the spleen."""

    trunk: tuple[float, float]
    """Half axes of the body, across and front to back."""
    fat: float
    """Under the skin of the flank."""
    domes: tuple[float, float]
    """Tops of the diaphragm, right and left."""
    liver: float
    """Size, about 1."""
    ascites: float
    """Width of the fluid within the ribs, 0 for none."""
    stomach: tuple[float, float, float]
    """Fullness (about 1), y of the gas level, HU of what lies below it."""
    kidney: Point
    """Centre of the left one."""

    @property
    def spine_y(self) -> float:
        """Middle of the vertebral bodies."""
        return self.trunk[1] - 0.5 * self.fat - 66

    @property
    def cavity(self) -> Shape:
        """Everything within the ribs."""
        rx, ry = self.trunk
        return ellipsoid((0, -9, 0), (rx - self.fat - 11, ry - 0.6 * self.fat - 17, 2000))

    @property
    def heart(self) -> Shape:
        """Lies on the diaphragm, to the left of the middle."""
        return ellipsoid((16, -42, self.domes[1] + 20), (54, 36, 34), turn=-18)

    @property
    def lungs(self) -> Shape:
        """Above the diaphragm (flat domes, steep at the rim), within the ribs, beside heart and mediastinum."""
        (rx, ry), (right, left) = self.trunk, self.domes
        width, depth = np.float32(rx - self.fat - 14), np.float32(ry - 14)

        def level(at: Points) -> Array:
            rim = (at.x / width) ** 2 + ((at.y + 24) / depth) ** 2
            crest = (right + left) / 2 - (right - left) / 2 * np.tanh(at.x / 25) - 9 * np.exp(-((at.x / 30) ** 2))
            above: Array = at.z - crest + 62 * rim**3
            return np.float32(0.5) * above

        middle = ellipsoid((0, 40, 0), (32, 52, 4000)) | self.heart.grown(3)
        return (self.cavity.grown(-2) & region(level)) - middle


@dataclass(frozen=True)
class Room:
    """Shapes of one scene that many others are cut by, each computed once."""

    cavity: Shape
    lungs: Shape
    hull: Shape
    """What organs may fill: within the ribs and below the diaphragm."""

    @classmethod
    def within(cls, scene: Scene, body: Abdomen) -> Room:
        """Of this patient on this scan."""
        cavity, lungs = scene.fixed(body.cavity), scene.fixed(body.lungs)
        return cls(cavity, lungs, scene.fixed(cavity.grown(-3) - lungs.grown(3.5)))


def paint_trunk(scene: Scene, body: Abdomen, room: Room) -> None:
    """Table, skin, fat, muscle, ribs, the fat within, and ascites."""
    ry = body.trunk[1]
    grain = scene.field(12.0, 9.0, 9.0)
    strands = np.exp(-((grain / np.float32(0.1)) ** 2)) * np.clip(scene.field(40.0), 0, 1)
    fat = FAT + 4 * grain + 55 * strands
    table = ellipsoid((0, -40, 0), (235, ry + 52, 4000))
    scene.paint((table - table.grown(-3)) & region(lambda at: at.y - 60), -650)
    skin = ellipsoid((0, 0, 0), (*body.trunk, 4000))
    scene.paint(skin, 10)
    scene.paint(skin.grown(-2), fat)
    for side in SIDES:  # erector spinae
        scene.paint(
            ellipsoid((side * 33, ry - 0.45 * body.fat - 17, 0), (31, 17, 4000), turn=6 * side), MUSCLE + 6 * grain
        )
    scene.paint(room.cavity.grown(9.5), MUSCLE - 5 + 8 * grain - 60 * strands)
    _ribs(scene, body, room)
    scene.paint(room.cavity, fat)
    if body.ascites:
        scene.paint(room.hull - room.cavity.grown(-3 - body.ascites), WATER)


def _ribs(scene: Scene, body: Abdomen, room: Room) -> None:
    """Twelve millimetres high, every 27, falling from back to front: long ovals when cut; in front, cartilage."""
    rx, ry = single(body.trunk)
    start, radius = np.float32(scene.rng.uniform(0, 27)), np.float32(0.75) * rx

    def level(at: Points) -> Array:
        along = np.abs(np.arctan2(at.x / rx, (at.y + 9) / ry)) * radius
        height = np.mod(at.z + np.float32(0.33) * along + start, np.float32(27)) - np.float32(13.5)
        bone: Array = np.minimum(np.float32(6) - np.abs(height), np.float32(2.15) * radius - along)
        return bone

    bone = scene.fixed(room.cavity.grown(8.5) & region(level)) - room.cavity.grown(1.5)
    scene.paint(bone, CORTEX)
    scene.paint(bone.grown(-2.2), MARROW)


def paint_spine(scene: Scene, body: Abdomen, phase: Phase) -> None:
    """Vertebrae with arches, discs and cord; psoas and crura; aorta and caval vein; oesophagus."""
    y = body.spine_y
    arms = []
    for side in SIDES:
        psoas = tube([(-110, side * 38, y + 6, 19, 21), (-45, side * 33, y + 8, 12, 14), (-5, side * 29, y + 10, 3, 5)])
        scene.paint(psoas, MUSCLE + 3)
        scene.paint(rod((side * 12, y - 18, -30), (side * 15, y - 30, 70), 4), MUSCLE)
        arms += [rod((side * 14, y + 22, z), (side * 37, y + 30, z), 6) for z in (-68, -34, 0, 34)]
    bone = (
        ellipsoid((0, y, 0), (22, 17, 4000))
        | ellipsoid((0, y + 24, 0), (17, 12, 4000))
        | ellipsoid((0, y + 42, 0), (4, 15, 4000))
    )
    for arm in arms:
        scene.paint(arm, CORTEX - 120)
    bone = scene.fixed(bone)
    scene.paint(bone, CORTEX - 100)
    scene.paint(bone.grown(-2), MARROW + 25 * scene.field(5.0))
    discs = region(lambda at: np.float32(4) - np.abs(np.mod(at.z + 7, np.float32(34)) - 17))
    scene.paint(ellipsoid((0, y, 0), (22, 17, 4000)) & discs, 85)
    scene.paint(ellipsoid((0, y + 23, 0), (9, 8, 4000)), 35)
    scene.paint(rod((10, y - 44, 10), (2, y - 44, 110), 8), phase.gut)
    scene.paint(tube([(-110, 6, y - 27, 9, 9), (0, 5, y - 29, 11, 11), (110, 9, y - 28, 12.5, 12.5)]), phase.aorta)
    cava = tube([(-110, -20, y - 22, 11, 9), (0, -22, y - 27, 12, 10), (70, -20, y - 48, 13, 12)])
    scene.paint(cava, 0.55 * phase.vein + 0.45 * phase.cortex)


def paint_chest(scene: Scene, body: Abdomen, room: Room, phase: Phase) -> None:
    """Diaphragm, lung bases with their vessels, the heart in its fat."""
    scene.paint(room.lungs.grown(2.5) & room.cavity, MUSCLE - 10)
    vessels = scene.threads(13.0, 0.06) * np.clip(scene.field(25.0) + np.float32(0.3), 0, 1)
    scene.paint(room.lungs, LUNG + 30 * scene.field(12.0) + 500 * vessels)
    scene.paint(body.heart & room.cavity.grown(-2), FAT + 20)
    blood = 0.5 * (phase.aorta + phase.vein) - 20
    scene.paint(body.heart.grown(-3) & room.cavity.grown(-4), blood + 14 * scene.field(25.0))
