"""`preceptor site check`: what a folder of scans is good for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option


def check_command(
    folder: Annotated[Path, Argument(help="Folder with DICOM series, NIfTI files, or both; only ever read.")],
    classes: Annotated[
        int | None, Option("--classes", min=2, help="Classes of the study, background included; masks are held to it.")
    ] = None,
    channels: Annotated[
        int, Option("--channels", min=1, help="Sequences in each file: as many as the study names in `task.channels`.")
    ] = 1,
    sheet: Annotated[
        Path | None, Option("--sheet", help="Write a picture (PNG) of every case with its mask's outline there.")
    ] = None,
    teacher: Annotated[
        Path | None, Option("--teacher", help="Also check this ONNX file, the site's teacher in place of a training.")
    ] = None,
    json: Annotated[bool, Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Read every scan in FOLDER; say which can train a teacher, which cannot, and how to mend the others.

    Files are known by content, whatever their names, and scans and masks are paired by where they lie in the patient.
    Nothing leaves this machine, and nothing is written but the sheet. Exit code 0 when something can be used, else 1.

    Example: preceptor site check /data/prostate --classes 2 --sheet preview.png

    A hospital that has a model already: preceptor site check /data/prostate --classes 2 --teacher teacher.onnx
    """
    from json import dumps

    from rich.console import Console
    from rich.progress import Progress

    from client.check import check

    known = _teacher(teacher, classes) if teacher else None
    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks = {
            "files": bar.add_task("looking at files", total=None),
            "cases": bar.add_task("reading cases", total=None),
        }
        report = check(
            folder,
            classes=classes,
            channels=channels,
            sheet=sheet,
            progress=lambda what, done, total: bar.update(tasks[what], completed=done, total=total),
        )
    if json:
        print(dumps(report.to_json() | ({"teacher": known} if known else {}), indent=2))
    else:
        console = Console()
        report.print(console)
        if sheet is not None and report.usable:
            console.print(f"Preview: {sheet}", markup=False)
        if known:
            words = "Teacher: {file} takes slices of {size}, gives {gives} of {classes} classes".format(**known)
            console.print(words, markup=False, soft_wrap=True)
    raise Exit(0 if report.usable else 1)


def _teacher(file: Path, classes: int | None) -> dict[str, str | int]:
    """What an ONNX file can do as a teacher; InputError where it cannot be one."""
    from models.onnx_network import OnnxNetwork

    network = OnnxNetwork(file, classes=classes)
    size = "any size" if None in network.body.sides else " × ".join(map(str, network.size))
    return {"file": str(file), "size": size, "gives": network.gives, "classes": network.classes}
