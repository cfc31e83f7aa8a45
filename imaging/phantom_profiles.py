"""Five scanners with the patients they see, modelled on public prostate MR and spleen CT collections.

What is taken from each collection is its kind of hardware and patient (field, coil, spacing, contrast phase, disease);
grids are cropped and slices thickened, so that a case takes half a second to make and 3 MB to store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imaging import phantom_prostate, phantom_spleen
from imaging.phantom_abdomen import ARTERIAL, DELAYED, NATIVE, PORTAL
from imaging.phantom_pelvis import Tissue
from imaging.phantom_prostate import Cohort
from imaging.phantom_scanner import CtScanner, MrScanner, acquire_ct, acquire_mr, endorectal, sensitivity
from imaging.phantom_scene import Grid
from imaging.phantom_spleen import Clinic


class Scan(NamedTuple):
    """One case on its own grid: `image` (D, H, W) int16, `mask` (D, H, W) 0 or 1, the tags a scanner would write."""

    grid: Grid
    image: NDArray[np.int16]
    mask: NDArray[np.uint8]
    tilt_deg: float
    """How far the slices lean: their back edge towards the feet."""
    tags: dict[str, Any]
    """DICOM keyword → value."""


@dataclass(frozen=True)
class Profile(ABC):
    """A scanner and its patients."""

    classes: ClassVar[int] = 2
    """Values of a mask: the background, and the organ."""
    name: str
    modality: str
    organ: str
    summary: str
    """For `preceptor phantom --help`."""
    grids: tuple[Grid, ...]
    """A case takes one of them."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Scan:
        """The next case of that generator."""


@dataclass(frozen=True)
class MrProfile(Profile):
    """T2-weighted, axial or nearly so."""

    tissue: Tissue
    cohort: Cohort
    scanner: MrScanner
    tilt_deg: float = 0.0
    """Greatest lean of the slices."""

    def draw(self, rng: np.random.Generator) -> Scan:
        grid = self.grids[int(rng.integers(len(self.grids)))]
        gains = {name: value * float(rng.lognormal(0, 0.2)) for name, value in vars(self.tissue).items()}
        scene, mask, body = phantom_prostate.paint_case(rng, grid, replace(self.tissue, **gains), self.cohort)
        bias = sensitivity(rng, grid, self.scanner.shading)
        coil = "BODY ARRAY"
        if body.filling == "balloon":
            coil, middle = "ENDORECTAL", body.gland[1] + 0.6 * body.rectum
            reach, flare = rng.uniform(15, 21), rng.uniform(3.5, 6.0)
            bias = bias * endorectal(scene.x, scene.y, scene.z, behind_mm=middle, reach_mm=reach, flare=flare)
        scanner = replace(self.scanner, noise=self.scanner.noise * float(rng.lognormal(0, 0.3)))
        image = acquire_mr(rng, scene.signal, bias, grid, scanner)
        tags = {"MagneticFieldStrength": self.scanner.field_t, "ReceiveCoilName": coil}
        return Scan(grid, image, mask, rng.uniform(0, 1) * self.tilt_deg, tags)


@dataclass(frozen=True)
class CtProfile(Profile):
    """Axial, in Hounsfield units."""

    clinic: Clinic
    scanner: CtScanner

    def draw(self, rng: np.random.Generator) -> Scan:
        grid = self.grids[int(rng.integers(len(self.grids)))]
        scene, mask, phase = phantom_spleen.paint_case(rng, grid, self.clinic)
        noise = replace(self.scanner, noise_hu=self.scanner.noise_hu * float(rng.lognormal(0, 0.2)))
        image = acquire_ct(rng, scene.signal, grid, noise)
        tags: dict[str, Any] = {"KVP": self.scanner.kvp, "ConvolutionKernel": self.scanner.kernel}
        if phase is not NATIVE:
            tags["ContrastBolusAgent"] = f"iodine, {phase.name}"
        return Scan(grid, image, mask, 0.0, tags)


PROMISE12 = MrProfile(
    name="promise12",
    modality="MR",
    organ="prostate",
    summary="3 T, 0.6 mm, now and then an endorectal coil: bright peripheral zone, dark transition zone",
    grids=(Grid((19, 280, 280), (3.6, 0.625, 0.625)), Grid((22, 288, 288), (3.0, 0.6, 0.6))),
    tissue=Tissue(fat=0.62, muscle=0.12, marrow=0.40, wall=0.26, peripheral=0.72, transition=0.36),
    cohort=Cohort(volume_ml=(42, 1.35), balloon=0.3, cancer=0.4),
    scanner=MrScanner(field_t=3.0, blur_mm=0.9, noise=0.03, shading=0.12, gain=900),
    tilt_deg=18,
)
NCI_ISBI = MrProfile(
    name="nci-isbi",
    modality="MR",
    organ="prostate",
    summary="1.5 T, mostly an endorectal coil: flare, flattened gland, thick slices; readers leave out 3 mm of apex",
    grids=(Grid((17, 288, 288), (4.0, 0.6, 0.6)),),
    tissue=Tissue(fat=0.56, muscle=0.18, marrow=0.40, wall=0.30, peripheral=0.58, transition=0.46),
    cohort=Cohort(volume_ml=(36, 1.3), balloon=0.6, cancer=0.5, apex_mm=3),
    scanner=MrScanner(field_t=1.5, blur_mm=1.1, noise=0.03, shading=0.08, gain=700),
    tilt_deg=8,
)
I2CVB = MrProfile(
    name="i2cvb",
    modality="MR",
    organ="prostate",
    summary="3 T, no coil, 0.79 mm, noisy: large glands, peripheral zone dark, transition zone bright",
    grids=(Grid((28, 224, 224), (2.5, 0.79, 0.79)),),
    tissue=Tissue(fat=0.38, muscle=0.17, marrow=0.26, wall=0.30, peripheral=0.40, transition=0.52),
    cohort=Cohort(volume_ml=(55, 1.3), balloon=0.0, cancer=0.9),
    scanner=MrScanner(field_t=3.0, blur_mm=1.2, noise=0.035, shading=0.20, gain=400),
)
DECATHLON = CtProfile(
    name="decathlon",
    modality="CT",
    organ="spleen",
    summary="portal venous phase, soft kernel, 5 mm: patients with liver metastases, half of whom drank contrast",
    grids=(Grid((26, 224, 224), (5.0, 1.6, 1.6)),),
    clinic=Clinic(((PORTAL, 1.0),), volume_ml=(190, 1.35), liver=1.0, ascites=0.03, oral=0.5, metastases=0.5),
    scanner=CtScanner(blur_mm=1.7, edge=0.15, noise_hu=11, grain_mm=1.8, kernel="STANDARD"),
)
DUKE = CtProfile(
    name="duke",
    modality="CT",
    organ="spleen",
    summary="four contrast phases, sharp kernel, 4 mm, noisy: cirrhosis, large spleens, small livers, ascites",
    grids=(Grid((34, 200, 200), (4.0, 1.8, 1.8)),),
    clinic=Clinic(
        ((NATIVE, 0.25), (ARTERIAL, 0.40), (PORTAL, 0.15), (DELAYED, 0.20)),
        volume_ml=(280, 1.35),
        liver=0.88,
        ascites=0.6,
        oral=0.1,
        metastases=0.1,
    ),
    scanner=CtScanner(blur_mm=1.7, edge=0.6, noise_hu=26, grain_mm=1.6, kernel="B50f"),
)
ALL: tuple[Profile, ...] = (PROMISE12, NCI_ISBI, I2CVB, DECATHLON, DUKE)
