"""`preceptor export`: a student leaves for the clinic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def export_command(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="A folder such as RUN/distill/consensus.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write into; STUDENT/export unless given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Write a student as ONNX, the same in 8 bits, and a card that says what it is and how well it does.

    `preceptor export runs/prostate/distill/consensus` leaves student.onnx, student-int8.onnx and MODEL_CARD.md in its
    folder `export`.

    Both files take a scan's own intensities at the student's spacing and normalise them themselves; those of volumes
    take patches that are normalised already. The first gives PyTorch's logits within 1e-4 (of volumes 1e-3) on the
    study lead's scans, or nothing is written (but for slices where two pixels tie in a max-pooling, docs/export.md);
    what 8 bits cost in Dice, and a scan on this machine, stands in the card. `preceptor predict --student student.onnx`
    reads both.
    """
    from rich.console import Console
    from rich.table import Table

    from distill.export import FILES, export
    from distill.model_card import dice_cost, write_model_card

    with Console(stderr=True).status("Exporting, and reading the study lead's scans with what was exported"):
        done = export(student, out)
        card = write_model_card(done)
    if as_json:
        forms = {
            form: {"file": FILES[form], "bytes": done.bytes[form], "dice": one.mean_dice, "cpu_s": one.median_seconds}
            for form, one in done.figures.items()
        }
        typer.echo(json.dumps({"folder": str(done.folder), "measured_on": done.part, "forms": forms}, indent=1))
        return
    table = Table(
        "file", "bytes", f"Dice, {done.part} scans", "CPU s a scan", title=str(done.folder), title_justify="left"
    )
    for form, one in done.figures.items():
        dice = "–" if one.mean_dice is None else f"{one.mean_dice:.4f}"
        table.add_row(FILES[form], f"{done.bytes[form]:,}", dice, f"{one.median_seconds:.3f}")
    Console().print(table)
    typer.echo(f"int8 against PyTorch: {dice_cost(done)}. What else is to be known: {card}")
