"""kill -9 at any moment, and the same command again: the end is the same, bit for bit."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.mark.slow
def test_killed_at_random_moments_the_network_is_the_same(small: ModuleType, tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("small_training.py"))]
    root = Path(__file__).parents[2]
    whole, killed, kills, steps = tmp_path / "whole", tmp_path / "killed", 0, set()
    with subprocess.Popen(program, text=True, bufsize=1, cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:  # fmt: skip
        started = start(server, whole)
        assert ended(server) == 0
        duration, draw = time.monotonic() - started[1], random.Random(0)
        for _ in range(60):
            pid, _ = start(server, killed)
            time.sleep(draw.random() * duration * 0.4)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if ended(server) != 0:
                kills += 1
                steps.add(step_of(killed))
            elif kills >= 3 and len(steps) >= 3:
                break
            else:  # the machine was busier while the duration was measured
                shutil.rmtree(killed)
                kills, steps, duration = 0, set(), duration / 2
        start(server, killed)
        assert ended(server) == 0
        assert server.stdin
        server.stdin.close()
    assert kills >= 3
    assert len(steps) >= 3, f"the kills hit too few moments: {steps}"
    assert same(load(whole), load(killed))
    assert [path.name for path in killed.iterdir()] == ["checkpoint.pt"], "a killed write left something behind"


def start(server: subprocess.Popen[str], folder: Path) -> tuple[int, float]:
    assert server.stdin
    assert server.stdout
    print(folder, file=server.stdin, flush=True)
    return int(server.stdout.readline()), time.monotonic()


def ended(server: subprocess.Popen[str]) -> int:
    assert server.stdout
    return int(server.stdout.readline())


def load(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return found


def step_of(folder: Path) -> int:
    return int(load(folder)["state"]["step"]) if (folder / "checkpoint.pt").exists() else 0


def same(a: Any, b: Any, key: str = "") -> bool:
    """Equal apart from seconds and the seal over them, tensors bit for bit."""
    if key in {"seconds", "seal"}:
        return True
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name], name) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)
