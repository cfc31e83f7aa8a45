"""On what a student is trained: device, processes and precision, by Lightning Fabric; and the record of it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric import Fabric

from imaging.errors import InputError
from study.distill_tables import Distill
from study.run import versions

NUMERIC = ("albumentations", "lightning-fabric", "monai", "numpy", "opencv-python-headless", "preceptor", "torch")
"""Packages whose release a student's bits may depend on."""


def fabric_of(plan: Distill) -> Fabric:
    """Fabric as `[distill]` asks: one process on the CPU, unless the study says more.

    Under torchrun or Slurm all processes are there; else the first one starts the others with its own command line.

    Raises: InputError for a device or precision that this machine has not, or processes that do not match the study.
    """
    device = device_of(plan)
    if plan.precision == "16-mixed" and device == "cpu":
        raise InputError("`precision` 16-mixed needs a GPU", where="[distill]", fix="take bf16-mixed or 32")
    if device == "cuda" and plan.devices > torch.cuda.device_count():
        there = f"`devices` is {plan.devices}, and there are {torch.cuda.device_count()} GPUs"
        raise InputError(there, where="[distill]", fix="lower `devices`")
    many = plan.devices * plan.nodes > 1
    try:
        fabric = Fabric(
            accelerator=device,
            devices=plan.devices,
            num_nodes=plan.nodes,
            precision=plan.precision,
            strategy="ddp" if many else "auto",
        )
        if many:
            fabric.launch()
    except ValueError as error:  # what torchrun or Slurm started is not what was asked for
        fix = "set `devices` and `nodes` in `[distill]` to what torchrun or Slurm starts"
        raise InputError(str(error), where="[distill]", fix=fix) from error
    return fabric


def device_of(plan: Distill) -> str:
    """`cpu` or `cuda`; InputError where a GPU is asked for and there is none."""
    found = torch.cuda.is_available()
    if plan.device == "cuda" and not found:
        fix = 'set `device = "auto"` or "cpu", or install torch for this machine\'s GPU'
        raise InputError("`device` is cuda, and torch finds no GPU", where="[distill]", fix=fix)
    return "cuda" if found and plan.device != "cpu" else "cpu"


@contextmanager
def led(fabric: Fabric) -> Iterator[None]:
    """Of several processes the first one tells what went wrong; the others in one line, since it may be only theirs."""
    try:
        yield
    except (InputError, RuntimeError) as error:
        if fabric.is_global_zero or not (isinstance(error, InputError) or "closed by peer" in str(error)):
            raise
        if isinstance(error, InputError):
            print(f"process {fabric.global_rank} on {platform.node()}: {error}", file=sys.stderr)
        sys.exit(1)


def made_on(fabric: Fabric) -> dict[str, str]:
    """All that a training's last bits can depend on apart from study, slices and answers, by name."""
    packages = versions()["packages"]
    return {
        "python": platform.python_version(),
        **{name: str(packages[name]) for name in NUMERIC if name in packages},
        "platform": platform.platform(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu",
        "processes": str(fabric.world_size),
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    """The processor's name as Linux tells it; elsewhere as far as Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
