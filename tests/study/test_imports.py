"""Coordinator and node start a process for every message: what they import of this room must not load torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TORCH_FREE = ("plan", "wire", "answers", "store", "run", "cohorts", "draws", "prefetch", "schedule", "keys", "commands")
HEAVY = ("torch", "monai", "segmentation_models_pytorch", "lightning_fabric", "albumentations", "matplotlib")


@pytest.mark.slow
def test_what_coordinator_and_node_import_loads_no_torch() -> None:
    modules = ", ".join(f"study.{name}" for name in TORCH_FREE)
    program = f"import {modules}, sys; print([name for name in {HEAVY} if name in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
