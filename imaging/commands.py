"""`preceptor phantom` makes scans for those who have none; `preceptor rescan` puts another scanner before real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from typer import Argument, Option

if TYPE_CHECKING:
    from rich.console import Console


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

    from imaging.phantom import Format, write_cohort

    errors = Console(stderr=True)
    with _bar(errors, f"writing {profile}") as told:
        kind: Format = "dicom" if form == "dicom" else "nifti"
        write_cohort(profile, folder, cases=cases, seed=seed, format=kind, progress=told)
    console = Console(soft_wrap=True)
    console.print(f"{cases} synthetic cases of {profile} in {folder}", markup=False, highlight=False)
    if sheet is not None:
        from imaging.cohort import inspect
        from imaging.phantom_sheet import write_sheet

        with errors.status("drawing the sheet"):
            write_sheet(sheet, inspect(folder).cases, title=f"{profile}, seed {seed} (synthetic)")
        console.print(f"Preview: {sheet}", markup=False, highlight=False)


def rescan_command(
    scans: Annotated[Path, Argument(metavar="FOLDER", help="Scans with their masks; only ever read.")],
    out: Annotated[Path, Argument(metavar="OUT", help="Where the patients go; new, or the same again to go on.")],
    gamma: Annotated[float, Option("--gamma", min=0.1, max=10, help="Contrast: each signal to this power.")] = 1.0,
    shading: Annotated[
        float, Option("--shading", min=0, max=2, help="Deviation of a slow bias field (log scale).")
    ] = 0.0,
    blur_mm: Annotated[float, Option("--blur-mm", min=0, max=20, help="In-plane blur, width at half maximum.")] = 0.0,
    noise: Annotated[
        float, Option("--noise", min=0, max=1, help="Deviation of the noise, of the brightest signal.")
    ] = 0.0,
    patients: Annotated[
        tuple[int, int] | None, Option("--patients", help="From the first number up to, not including, the second.")
    ] = None,
    seed: Annotated[int, Option("--seed", min=0, help="Another seed gives other noise and shading.")] = 0,
) -> None:
    """Write real MR scans again as another scanner might have made them, with their masks as they are.

    A set that comes from one site can so stand for several: contrast, then uneven sensitivity, blur within slices,
    noise (Rician), and stored whole numbers of another gain. Patients keep their order and lose their ids. In a study,
    `source = { folder = "…", patients = [24, 48], scanner = { noise = 0.05 } }` does the same at that site.

    **Examples**

    preceptor rescan scans/north scans/noisy --noise 0.08 --blur-mm 2

    preceptor rescan scans/north scans/shaded --gamma 1.5 --shading 0.3 --patients 24 48
    """
    from rich.console import Console

    from imaging.errors import InputError
    from imaging.rescan import write_rescanned
    from imaging.scanner import Scanner

    scanner = Scanner(gamma=gamma, shading=shading, blur_mm=blur_mm, noise=noise)
    if scanner == Scanner():
        raise InputError("no effect of another scanner is named", fix="name one or more, such as `--noise 0.05`")
    with _bar(Console(stderr=True), "writing scans") as told:
        found = write_rescanned(scans, out, scanner, seed=seed, patients=patients, progress=told)
    console = Console(soft_wrap=True)
    for problem in found.problems:
        console.print(f"put aside: {problem.where}: {problem.what}; {problem.fix}", markup=False, highlight=False)
    plural = "s" * (found.patients != 1)
    console.print(f"{found.patients} patient{plural} in {out}", markup=False, highlight=False)


@contextmanager
def _bar(errors: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar while something is written, which is told (done, of)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
