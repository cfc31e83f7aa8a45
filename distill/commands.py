"""`preceptor distill`, `schemes` and `report`: the centre's part."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill.tracking import Tracker, tracked

if TYPE_CHECKING:
    from rich.table import Table

    from study.plan import Distill, Study
    from study.student import StudentCard
    from study.training import Progress


class Split(StrEnum):
    """Which patients a comparison is of."""

    test = "test"
    val = "val"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, which holds study.json.")]


def distill_command(
    run: Annotated[Path, typer.Argument(metavar="RUN|STUDY", help="A run's folder, or a study.toml.")],
    answers: Annotated[
        Path | None,
        typer.Option(
            help="For a study.toml that asks teachers: the run folder whose answers to learn from, or its `store`."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="For a study.toml: its own run folder; `runs/distill-NAME` unless given.", show_default=False
        ),
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="One of `preceptor schemes`; the study's `distill.scheme` unless given.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="A student of the study's `[distill.variants]`, in place of a scheme.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the study's own.", show_default=False)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value of a `[distill]` or `student.` key."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Folder under RUN/distill, and the name in the report; the scheme unless given.")
    ] = None,
    track: Annotated[
        Tracker | None, typer.Option(help="Also send the curves to `tensorboard` (RUN/tensorboard) or `mlflow`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the student from the stored answers; a training that was stopped goes on where it stood.

    `preceptor distill runs/prostate` trains by the study's scheme and leaves RUN/distill/consensus/student.safetensors
    with student.json beside it.

    `preceptor distill runs/prostate --scheme supervised` trains the same student without any teacher, to compare.

    `preceptor distill runs/prostate --set weights.law=as-printed --label as-printed` changes one key of `[distill]`.

    `preceptor distill study.toml --answers runs/prostate --set student.model=enet --set steps=8000 --out runs/enet`
    learns from answers that another run has collected, into a folder of its own; a study that asks no teacher
    (`answers.contents = []`) needs no `--answers`.

    `preceptor distill runs/prostate --set device=cuda --set devices=4 --label four` trains on four GPUs.

    docs/jobs.md tells of GPUs, several machines, mixed precision, early stopping and tracking.
    """
    from rich.console import Console

    from distill.job import WaitsError, check_label, default_label, run_job
    from distill.machine import fabric_of, led
    from distill.progress import shown
    from distill.schemes import check
    from imaging.errors import InputError

    run, study = _placed(run, answers, out, settings, label)
    if variant:
        if scheme or settings:
            fix = "leave out `--scheme` and `--set`, or `--variant`"
            raise InputError("a variant has a scheme and settings of its own", fix=fix)
        study = study.varied(variant)
    scheme = scheme or study.distill.scheme
    check(scheme)
    name = label or default_label(study, variant or scheme, study.seed if seed is None else seed)
    check_label(name)
    fabric = fabric_of(study.distill)
    track = track if fabric.is_global_zero else None
    own = study.distill.of(scheme).model_dump(exclude={"compare", "variants"})
    own |= {"network": study.student.model, "seed": study.seed if seed is None else seed}
    trained = False
    with led(fabric), shown(Console(stderr=True), name) as show, tracked(track, run, name, own) as follow:

        def progress(done: Progress) -> None:
            nonlocal trained
            trained = True
            show(done)
            follow(done)

        try:
            card = run_job(study, run, scheme, seed=seed, label=name, progress=progress, fabric=fabric)
        except WaitsError as wait:
            if fabric.is_global_zero:
                typer.echo(json.dumps({"waits": str(wait)}) if as_json else str(wait), err=not as_json)
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            if fabric.is_global_zero:
                typer.echo("Stopped. The same command goes on at the last checkpoint.", err=True)
            raise
    if fabric.is_global_zero:
        _tell(card, trained=trained, as_json=as_json)


def _tell(card: StudentCard, *, trained: bool, as_json: bool) -> None:
    """The card of a finished student; whether there was anything to do goes to the error stream."""
    from rich.console import Console

    if not trained:
        typer.echo("It was finished before: nothing was trained.", err=True)
    if as_json:
        typer.echo(card.model_dump_json(indent=2))
    else:
        Console().print(card_table(card))


def _placed(
    run: Path, answers: Path | None, out: Path | None, settings: list[str] | None, label: str | None
) -> tuple[Path, Study]:
    """The run folder, and the study to train by; InputError where the options do not go together."""
    from distill.elsewhere import begin
    from distill.settings import changed
    from imaging.errors import InputError
    from study.plan import read_study
    from study.run import read_study_of

    if answers is None and not run.is_file():
        if out is not None:
            raise InputError("`--out` goes with a study file", fix="leave it out, or name the study.toml")
        study = read_study_of(run)
        if settings and label is None:
            raise InputError("`--set` makes another student than the study's", fix="name it with `--label`")
        return run, changed(study, settings) if settings else study
    if run.is_dir():
        raise InputError("learns from its own answers", where=run, fix="leave out `--answers`, or name a study.toml")
    study = changed(read_study(run), settings or [])
    if answers is None and study.answers.contents:
        fix = "add `--answers RUN`, the folder of a run that has collected some"
        raise InputError("a study file does not say which answers to learn from", where=run, fix=fix)
    folder = out or Path("runs") / f"distill-{study.name}"
    begin(study, answers, folder)
    return folder, study


def card_table(card: StudentCard) -> Table:
    """A finished student, for a reader."""
    from rich.table import Table

    dice = f"{card.val_dice:.3f} at step {card.best_step}" if card.val_dice is not None else "nothing to validate on"
    table = Table(title=f"{card.study}: {card.label}", title_justify="left", show_header=False)
    table.add_row("student", f"{card.model}, {card.parameters:,} parameters, {len(card.classes)} classes")
    table.add_row("teachers", ", ".join(card.teachers) or "none")
    table.add_row("steps", f"{card.steps} in {card.seconds / 60:.1f} min, seed {card.seed}")
    table.add_row("validation Dice", dice)
    table.add_row("weights", card.weights_hash[:16])
    return table


def schemes_command(
    study: Annotated[
        Path | None, typer.Option(help="Under the `[distill]` of this study.toml; the papers' values unless given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the training schemes, and what each asks of the sites.

    `preceptor schemes`

    `preceptor schemes --study studies/cardiac.toml`

    `preceptor schemes --json`

    docs/schemes/ has a page on each: its equations, what it needs, what it costs, and when it fails.
    """
    from study.plan import Distill, read_study

    rows = scheme_rows(read_study(study).distill if study else Distill())
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table

    headings = ("scheme", "what it does", "teachers", "needs of each")
    table = Table(*(Column(name, overflow="fold") for name in headings), title="Schemes", title_justify="left")
    for row in rows:
        table.add_row(row["name"], row["summary"], row["teachers"], ", ".join(row["contents"]) or "nothing")
    Console().print(table)


def scheme_rows(plan: Distill) -> list[dict[str, Any]]:
    """One row a scheme and variant, as `--json` prints it, under these settings."""
    from torch import nn

    from distill import schemes

    rows = []
    for name in [*schemes.names(), *plan.variants]:
        mine = plan.of(name)
        scheme = schemes.create(mine.scheme, nn.Identity(), mine, 2)
        summary = (scheme.__doc__ or "").partition("\n")[0]
        needs = scheme.needs
        row = {"name": name, "summary": summary, "teachers": needs.teachers, "contents": list(needs.contents)}
        rows.append({**row, "unlabelled": needs.unlabelled, "volumes": scheme.volumes})
    return rows


def check_contents(study: Study) -> None:
    """InputError where a scheme of the study needs what the sites are not asked for, or takes no patches."""
    from distill import schemes
    from imaging.errors import InputError

    for name in study.distill.students:
        plan = study.distill.of(name)
        try:
            schemes.check_fits(plan.scheme, study.student_of(name), study.preprocess, plan)
        except InputError as error:
            raise InputError(error.what, where=f"study `{study.name}`, student `{name}`", fix=error.fix) from error
    rows = {row["name"]: row["contents"] for row in scheme_rows(study.distill)}
    for name in study.distill.students:
        if lacking := [content for content in rows[name] if content not in study.answers.contents]:
            kind = "variant" if name in study.distill.variants else "scheme"
            what = f"{kind} `{name}` needs {' and '.join(lacking)}, which the sites are not asked for"
            more = json.dumps([*study.answers.contents, *lacking])
            raise InputError(what, where=f"study `{study.name}`", fix=f"set `contents = {more}` in its `[answers]`")


def report_command(run: RunFolder) -> None:
    """Write RUN/report.html from whatever the run folder holds by now: one file that needs nothing else.

    `preceptor report runs/prostate`
    """
    from distill.report import write_report

    typer.echo(write_report(run))


def tables_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of one study, one a seed.")],
    split: Annotated[
        Split, typer.Option(help="Test patients for figures, validation patients for choices.")
    ] = Split.test,
    reference: Annotated[str, typer.Option(help="What the others are compared with.")] = "supervised",
    label: Annotated[list[str] | None, typer.Option(help="Compare these students only; again for more.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.md, .json and .svg as well.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the students of several runs: figures with their spread, differences paired by patient, ranks.

    `preceptor tables runs/prostate-seed-*` prints Markdown.

    `preceptor tables runs/prostate-seed-* --split val --label amtkd --label uniform --reference uniform` chooses.
    """
    from distill.comparison import Trainings
    from distill.comparison_tables import as_json as to_json
    from distill.comparison_tables import markdown, write

    chosen = list(dict.fromkeys([reference, *label])) if label else None
    trainings = Trainings.read(runs, split.value, chosen)
    trainings.check(reference)
    if out is not None:
        write(trainings, reference, out)
    typer.echo(json.dumps(to_json(trainings, reference), indent=1) if as_json else markdown(trainings, reference))
