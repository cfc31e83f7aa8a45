"""A small hospital for tests: seven patients' NIfTI scans with masks, and a service over a real unix socket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import httpx
import nibabel as nib
import numpy as np

from client import app
from client.site import SiteConfig, read_site
from imaging.preprocess import Preprocess
from study.plan import Task, Teacher
from study.wire import Assignment

PATIENTS = ("Meier_Anna", "Kovacs_Bela", "Rossi_Carla", "Novak_Dana", "Sato_Emi", "Diaz_Fidel", "Weber_Greta")
DAMAGED = "Zimmer_Hans"
CLASSES = ["background", "organ", "lesion"]
ROOT = Path(__file__).resolve().parents[2]
SERVE = "import sys; from client.commands import site_app; site_app(['serve', sys.argv[1]])"


def write_scans(folder: Path, *, seed: int) -> None:
    """Scans of 5 to 11 slices of 37 × 41: an organ with a lesion in it, on noise; their masks; and a damaged scan."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number, patient in enumerate(PATIENTS):
        depth = 5 + number
        z, y, x = np.meshgrid(np.linspace(-1, 1, depth), np.linspace(-1, 1, 37), np.linspace(-1, 1, 41), indexing="ij")
        at = rng.uniform(-0.3, 0.3, 2)
        mask = ((x - at[0]) ** 2 + (y - at[1]) ** 2 + z**2 / 2 < 0.35).astype(np.uint8)
        mask[(x - at[0] - 0.1) ** 2 + (y - at[1]) ** 2 + z**2 / 2 < 0.08] = 2
        scan = (300 + 250.0 * mask + rng.normal(0, 60, mask.shape)).astype(np.int16)
        affine = np.diag([1.3, 1.1, 3.0, 1.0])
        for array, end in ((scan, ""), (mask, "_seg")):
            nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), folder / f"{patient}{end}.nii.gz")
    whole = (folder / f"{PATIENTS[0]}.nii.gz").read_bytes()
    (folder / f"{DAMAGED}.nii.gz").write_bytes(whole[: len(whole) // 2])
    copyfile(folder / f"{PATIENTS[0]}_seg.nii.gz", folder / f"{DAMAGED}_seg.nii.gz")


def write_site(folder: Path, data: Path, *, name: str = "north", more: str = "") -> SiteConfig:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'name = "{name}"', f'data = "{data}"', 'workspace = "workspace"', 'socket = "s.sock"', more]
    (folder / "site.toml").write_text("\n".join(lines))
    return read_site(folder / "site.toml")


def make_assignment(*, epochs: int = 3, **changes: Any) -> Assignment:
    options: dict[str, str | int] = {"encoder": "tu-tf_mobilenetv3_small_minimal_100"}
    split = (0.6, 0.2, 0.2)
    teacher = Teacher(model="deeplabv3plus", options=options, epochs=epochs, batch=5, lr=0.003, split=split)
    values: dict[str, Any] = {
        "study": "demo",
        "study_hash": "0123",
        "seed": 3,
        "task": Task(modality="MR", classes=CLASSES),
        "preprocess": Preprocess(size=(48, 32)),
        "teacher": teacher,
    }
    return Assignment(**values | changes)


@dataclass(frozen=True)
class Door:
    """A running service, and all that ever came out of it."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    sent: list[bytes]

    def post(self, work: str, body: bytes) -> httpx.Response:
        response = self.http.post(f"/{work}", content=body)
        self.sent.append(response.content)
        return response

    def post_and_lose(self, work: str, body: bytes) -> None:
        """Ask a service that will be gone before it has answered."""
        with suppress(httpx.TransportError):
            self.http.post(f"/{work}", content=body)

    def status(self) -> dict[str, Any]:
        response = self.http.get("/status")
        self.sent.append(response.content)
        found: dict[str, Any] = response.json()
        return found


@contextmanager
def service(site_toml: Path) -> Iterator[Door]:
    """A service in a process of its own, from when its socket answers."""
    config = read_site(site_toml)
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(site_toml)], cwd=ROOT, stderr=subprocess.DEVNULL)
    transport = httpx.HTTPTransport(uds=str(config.socket), retries=0)
    with httpx.Client(transport=transport, base_url="http://service", timeout=120) as http:
        try:
            app.connect(str(config.socket), start_s=120).close()
            yield Door(process, http, [])
        finally:
            process.kill()
            process.wait()
