"""`preceptor phantom`: synthetic scans for those who have none yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from typer import Argument, Option


def phantom_command(
    profile: Annotated[str, Argument(metavar="PROFILE", help="Scanner profile; they are listed above.")],
    folder: Annotated[Path, Argument(metavar="FOLDER", help="Where the cases go; new, or a cohort to go on with.")],
    cases: Annotated[int, Option("--cases", min=1, help="Patients to make.")] = 12,
    seed: Annotated[int, Option("--seed", min=0, help="Another seed gives other patients.")] = 0,
    form: Annotated[
        str,
        Option(
            "--format", click_type=click.Choice(["nifti", "dicom"]), help="Image and mask; or series and DICOM SEG."
        ),
    ] = "nifti",
    sheet: Annotated[Path | None, Option("--sheet", help="Write a picture (PNG) of the first cases there.")] = None,
) -> None:
    """Write a cohort of synthetic patients as a hospital's files, marked as synthetic throughout.

    **Prostate on T2-weighted MR** (mask: whole gland 1)

    - `promise12` — 3 T, now and then an endorectal coil, bright peripheral zone

    - `nci-isbi` — 1.5 T, mostly an endorectal coil

    - `i2cvb` — 3 T, noisy, large glands with inverted zones

    **Spleen on CT** (mask: spleen 1)

    - `decathlon` — portal venous phase, soft kernel

    - `duke` — four contrast phases, cirrhosis, noisy

    Case 7 of a profile and seed is the same in every cohort, however large. Run again to go on after an interruption.

    **Examples**

    preceptor phantom promise12 scans/north --cases 12 --sheet north.png

    preceptor phantom nci-isbi scans/south --cases 12 --seed 1 --format dicom

    preceptor site check scans/south
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from imaging.phantom import write_cohort

    errors = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(f"writing {profile}", total=cases)
        write_cohort(
            profile,
            folder,
            cases=cases,
            seed=seed,
            format="dicom" if form == "dicom" else "nifti",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console = Console(soft_wrap=True)
    console.print(f"{cases} synthetic cases of {profile} in {folder}", markup=False, highlight=False)
    if sheet is not None:
        from imaging.cohort import inspect
        from imaging.phantom_sheet import write_sheet

        with errors.status("drawing the sheet"):
            write_sheet(sheet, inspect(folder).cases, title=f"{profile}, seed {seed} (synthetic)")
        console.print(f"Preview: {sheet}", markup=False, highlight=False)
