"""What a scanner makes of an anatomy: blur, uneven sensitivity, noise, and whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from imaging.phantom_scene import Grid
from imaging.phantom_shapes import Array

FWHM = 2.3548
"""Full width at half maximum of a Gaussian over its deviation."""


@dataclass(frozen=True)
class MrScanner:
    """A T2-weighted sequence on one magnet."""

    field_t: float
    """Field strength in tesla."""
    blur_mm: float
    """Full width at half maximum of the in-plane point spread function."""
    noise: float
    """Deviation of each channel's noise, where urine is 1 (Rician once the magnitude is taken)."""
    shading: float
    """Deviation of the slow bias field (log scale): grows with field strength."""
    gain: float
    """Stored units where urine is 1."""


def sensitivity(rng: np.random.Generator, grid: Grid, shading: float) -> Array:
    """The bias field of a body array: slow drifts, and a gain towards the front and back where the elements lie."""
    drift = np.float32(shading) * grid.field(rng, 120, 90, 90)
    y = grid.axis(1)[None, :, None] / np.float32(90)
    return np.exp(drift + np.float32(1.2 * shading) * (y * y - np.float32(0.3)))


def endorectal(x: Array, y: Array, z: Array, *, behind_mm: float, reach_mm: float, flare: float) -> Array:
    """The bias field of a coil in the rectum at y = `behind_mm`: bright beside it, falling with distance squared."""
    near = ((x / np.float32(1.25)) ** 2 + (y - np.float32(behind_mm)) ** 2 + (z / 2) ** 2) / np.float32(reach_mm**2)
    return np.float32(0.35) + np.float32(flare) / (1 + near)


def acquire_mr(
    rng: np.random.Generator, signal: Array, bias: Array, grid: Grid, scanner: MrScanner
) -> NDArray[np.int16]:
    """The magnitude image (D, H, W), stored as the magnet's computer would, 0 upwards."""
    image = _blurred(signal * bias, scanner.blur_mm, grid)
    real, imaginary = (np.float32(scanner.noise) * rng.standard_normal(image.shape, dtype=np.float32) for _ in "ri")
    magnitude = np.hypot(image + real, imaginary)
    gain = scanner.gain * float(rng.uniform(0.8, 1.25))
    stored: NDArray[np.int16] = np.clip(np.rint(magnitude * np.float32(gain)), 0, 4095).astype(np.int16)
    return stored


@dataclass(frozen=True)
class CtScanner:
    """A reconstruction on one CT scanner."""

    blur_mm: float
    """Full width at half maximum of the kernel's point spread function."""
    edge: float
    """How much the kernel enhances edges: 0 soft tissue, about 1 sharp."""
    noise_hu: float
    """Deviation in the middle of the body."""
    grain_mm: float
    """Width of the noise's grains: coarse after a soft kernel, fine after a sharp one."""
    kvp: int = 120
    kernel: str = "B30f"


def acquire_ct(rng: np.random.Generator, hu: Array, grid: Grid, scanner: CtScanner) -> NDArray[np.int16]:
    """The reconstructed image (D, H, W) in Hounsfield units, -1024 upwards."""
    image = _blurred(hu, scanner.blur_mm, grid)
    if scanner.edge:
        image += np.float32(scanner.edge) * (image - _blurred(image, 2 * scanner.blur_mm, grid))
    noise = _blurred(rng.standard_normal(image.shape, dtype=np.float32), scanner.grain_mm, grid)
    noise -= _blurred(noise, 3 * scanner.grain_mm, grid)  # filtered back projection leaves no slow noise
    noise *= np.float32(scanner.noise_hu / noise.std())
    x, y = grid.axis(2)[None, None, :], grid.axis(1)[None, :, None]
    noise *= np.float32(0.6) + np.float32(0.4) * np.exp(-((x / 130) ** 2) - (y / 95) ** 2)
    return np.clip(np.rint(image + noise), -1024, 3071).astype(np.int16)


def _blurred(image: Array, fwhm_mm: float, grid: Grid) -> Array:
    """The image after an in-plane Gaussian; slices stay apart."""
    for axis in (1, 2) if fwhm_mm else ():
        image = gaussian_filter1d(
            image, fwhm_mm / FWHM / grid.spacing_mm[axis], axis=axis, mode="nearest", truncate=3.0
        )
    return image
