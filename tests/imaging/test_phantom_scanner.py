"""What a scanner adds: Rician noise, its coil's bias, a kernel and its grain."""

from __future__ import annotations

import numpy as np
import pytest

from imaging.phantom_scanner import CtScanner, MrScanner, acquire_ct, acquire_mr, endorectal, sensitivity
from imaging.phantom_scene import Grid

GRID = Grid((3, 89, 97), (3.0, 0.8, 0.8))
MAGNET = MrScanner(field_t=3.0, blur_mm=1.0, noise=0.05, shading=0.1, gain=1000)
KERNEL = CtScanner(blur_mm=1.5, edge=0.0, noise_hu=17, grain_mm=1.6)


def test_noise_in_air_is_rayleigh_and_within_tissue_gaussian() -> None:
    signal = np.zeros(GRID.shape, dtype=np.float32)
    signal[:, 40:] = 1.0
    image = acquire_mr(np.random.default_rng(1), signal, np.ones_like(signal), GRID, MAGNET).astype(float)
    air, tissue = image[:, :30], image[:, 50:]
    assert air.mean() / air.std() == pytest.approx(1.913, abs=0.06)  # Rayleigh: sqrt(pi / (4 - pi))
    assert tissue.mean() / tissue.std() == pytest.approx(20, rel=0.06)
    assert image.min() >= 0


def test_the_point_spread_function_widens_an_edge_within_slices_only() -> None:
    signal = np.zeros(GRID.shape, dtype=np.float32)
    signal[1, :, 50:] = 1.0
    sharp = MrScanner(field_t=3.0, blur_mm=4.0, noise=0.0, shading=0.0, gain=1000)
    image = acquire_mr(np.random.default_rng(1), signal, np.ones_like(signal), GRID, sharp)
    edge = image[1, 40] / image[1, 40].max()
    assert ((edge > 0.1) & (edge < 0.9)).sum() * 0.8 == pytest.approx(2.563 * 4.0 / 2.355, abs=0.9)
    assert image[0].max() == 0


def test_the_coil_s_flare_falls_with_distance() -> None:
    y = np.linspace(0, 80, 5, dtype=np.float32).reshape(1, 5, 1)
    bias = endorectal(np.zeros_like(y), y, np.zeros_like(y), behind_mm=0, reach_mm=20, flare=3).ravel()
    assert np.all(np.diff(bias) < 0)
    assert bias[0] == pytest.approx(0.35 + 3)
    assert bias[-1] < 0.7


def test_a_body_array_shades_slowly() -> None:
    bias = sensitivity(np.random.default_rng(2), GRID, 0.2)
    assert bias.min() > 0
    assert np.abs(np.diff(bias, axis=2)).max() < 0.02


def test_ct_noise_has_its_deviation_and_grain() -> None:
    image = acquire_ct(np.random.default_rng(3), np.full(GRID.shape, 50, np.float32), GRID, KERNEL).astype(float)
    middle = image[:, 30:60, 30:60]
    assert middle.std() == pytest.approx(17, rel=0.1)
    assert middle.mean() == pytest.approx(50, abs=2)
    neighbours = np.corrcoef(middle[..., 1:].ravel(), middle[..., :-1].ravel())[0, 1]
    assert 0.2 < neighbours < 0.9


def test_a_sharp_kernel_overshoots_at_edges() -> None:
    hu = np.full(GRID.shape, -100, dtype=np.float32)
    hu[:, :, 50:] = 100
    sharp = CtScanner(blur_mm=1.5, edge=1.0, noise_hu=1e-3, grain_mm=1.6)
    image = acquire_ct(np.random.default_rng(3), hu, GRID, sharp)
    assert image.max() > 110
    assert acquire_ct(np.random.default_rng(3), hu, GRID, KERNEL)[:, :, 60:].max() < 190
