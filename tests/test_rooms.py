"""The house keeps its plan: imports run one way, and what must start at once loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "imaging": set[str](),
    "models": set[str](),
    "study": {"imaging", "models"},
    "client": {"imaging", "models", "study"},
    "server": {"imaging", "models", "study"},
    "distill": {"imaging", "models", "study"},
}
HEAVY = {"torch", "monai", "segmentation_models_pytorch", "torchvision", "lightning_fabric", "albumentations"}


def imported(file: Path) -> set[str]:
    """Top-level names of every module that a file imports, wherever in the file.

    `imaging.errors` counts as a library: the one exception that a user reads is raised in every room.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            names |= {(node.module or "").partition(".")[0]} if node.module != "imaging.errors" else set()
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    allowed = ROOMS[room] | {room}
    for file in (ROOT / room).rglob("*.py"):
        ours = imported(file) & {*ROOMS, "preceptor"}
        assert ours <= allowed, f"{file.relative_to(ROOT)} imports {sorted(ours - allowed)}"


@pytest.mark.parametrize("app", ["client/app.py", "server/app.py"])
def test_the_flower_apps_name_no_heavy_library(app: str) -> None:
    assert not imported(ROOT / app) & HEAVY


def loaded_by(code: str) -> set[str]:
    """Names of the heavy libraries that a fresh Python has loaded after `code`."""
    script = f"import sys\n{code}\nprint(*sorted(set(sys.modules) & {HEAVY!r}))"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import client.app",
        "import server.app",
        "import models; models.names()",
        "import preceptor",
        "import imaging.cohort, imaging.slices, study.plan, study.wire, study.answers",
        "import study.store, study.cohorts, study.run",
    ],
)
def test_what_must_start_at_once_loads_nothing_heavy(code: str) -> None:
    """Each Flower message starts a process: torch would cost it 2 to 13 s and 660 to 980 MB (measured)."""
    assert loaded_by(code) == set()


def test_help_answers_without_the_heavy_libraries() -> None:
    code = "import preceptor\ntry: preceptor.main(['--help'])\nexcept SystemExit: pass"
    assert loaded_by(code) == set()
