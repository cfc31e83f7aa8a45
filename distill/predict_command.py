"""`preceptor predict`: a student at work in the clinic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

UNORIENTED = (
    "the header does not say how the scan lies in the patient (neither sform nor qform): slices were taken for axial, "
    "rows for running to the left, columns to the front; if they do not, the mask is not to be trusted"
)


def predict_command(
    scan: Annotated[Path, typer.Argument(help="A NIfTI file, a DICOM file, or a folder with one DICOM series.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The mask: .nii.gz, .nii, or .dcm for a DICOM SEG.")],
    student: Annotated[
        Path,
        typer.Option(help="Folder of a student, such as RUN/distill/consensus, or an ONNX file of `preceptor export`."),
    ],
    preview: Annotated[Path | None, typer.Option(help="PNG; the mask's name with .png unless given.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a sentence.")] = False,
) -> None:
    """Segment one scan with a student; the mask lies on the scan's own voxels, whatever their axes, tilt and order.

    `preceptor predict scans/patient7.nii.gz -o patient7_mask.nii.gz --student runs/prostate/distill/consensus`

    `preceptor predict scans/series -o seg.dcm --student runs/prostate/distill/consensus` writes a DICOM SEG that names
    the series' images, for a viewer.

    `preceptor predict scan.nii.gz -o mask.nii.gz --student student.onnx` needs ONNX Runtime and no PyTorch.

    A picture is written beside it. Research software: nobody has reviewed the mask.
    """
    from distill.predict import check_places, predict, write

    picture = preview or out.with_name(out.name.removesuffix(".gz").rpartition(".")[0] + ".png")
    check_places(out, picture)  # before a minute's work
    found = predict(scan, student, threads=threads)
    write(found, out, picture)
    if as_json:
        note = {"mask": str(out), "preview": str(picture), "volumes_ml": found.volumes_ml, "seconds": found.seconds}
        typer.echo(json.dumps({**note, "oriented": found.oriented}, indent=1))
        return
    if not found.oriented:
        typer.echo(f"{scan}: {UNORIENTED}", err=True)
    volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in found.volumes_ml.items())
    typer.echo(f"{out}: {volumes} in {len(found.labels)} slices, {found.seconds:.1f} s; look at {picture}")
