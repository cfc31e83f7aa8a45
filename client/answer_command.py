"""`preceptor answer`: teachers that are on this machine answer, without a federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from study.plan import Study
    from study.wire import Card


def answer_command(
    place: Annotated[Path, typer.Argument(metavar="STUDY|RUN", help="A study.toml, or a run's folder.")],
    teacher: Annotated[
        list[str], typer.Option(metavar="NAME=PATH", help="A site of the study and its teacher; again for more.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Run folder of a study.toml; `runs/NAME` unless given.", show_default=False)
    ] = None,
) -> None:
    """Ask teachers that lie on this machine about the student's scans, without hospitals and coordinator.

    PATH is an ONNX file of any framework (it gives logits alone), a folder with a teacher's checkpoint.pt as a site
    keeps it, or weights as .safetensors of the network that the study names for that site.

    `preceptor answer studies/spleen.toml --teacher hospital-a=a.onnx --teacher hospital-b=b/checkpoint` makes
    runs/spleen; then `preceptor distill runs/spleen` trains the student from these answers.

    `preceptor answer runs/prostate --teacher hospital-a=a.onnx` answers for one site of a run, whose other sites a
    federation may ask. A fill that was stopped goes on; nothing is asked twice. docs/any-teacher.md says what an ONNX
    file must be like.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from client.fill import fill
    from client.teacher import teacher_at
    from study.cohorts import assignment, lead_slices
    from study.training import use_threads

    study, run = _opened(place, out)
    paths = _named(teacher, study)
    use_threads(study.distill.threads)
    teachers = [teacher_at(path, name, assignment(study, name)) for name, path in paths.items()]  # all before any asks
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
        reading = bar.add_task("reading the student's scans", total=None)
        slices = lead_slices(study, run, progress=lambda done, cases: bar.update(reading, completed=done, total=cases))
        bar.remove_task(reading)
        tasks = {one.site: bar.add_task(f"{one.site} answers", total=None) for one in teachers}
        cards = [
            fill(study, run, slices, one, lambda n, of, task=tasks[one.site]: bar.update(task, completed=n, total=of))  # type: ignore[misc]
            for one in teachers
        ]
    _print(study, run, cards)


def _opened(place: Path, out: Path | None) -> tuple[Study, Path]:
    """The study and its run folder, which is made for a study.toml."""
    from client.fill import check_rounds
    from imaging.errors import InputError
    from study.plan import read_study
    from study.run import create_or_resume, make_folder, read_study_of

    if place.is_dir() and out is not None:
        raise InputError(f"`--out {out}` beside a run's folder", fix="name the run alone, or a study.toml with `--out`")
    if place.is_dir():
        return read_study_of(place), place
    study = read_study(place)
    check_rounds(study)
    folder = out or Path("runs") / study.name
    make_folder(folder)
    return create_or_resume(folder, study).study, folder


def _named(teachers: list[str], study: Study) -> dict[str, Path]:
    """The teachers' places by their sites; InputError where a site is unknown or comes twice."""
    from imaging.errors import InputError

    paths: dict[str, Path] = {}
    for words in teachers:
        name, found, path = words.partition("=")
        if not found or not path:
            raise InputError(f"`--teacher {words}` is not NAME=PATH", fix="such as --teacher hospital-a=teacher.onnx")
        if study.site(name).name in paths:
            raise InputError(f"`--teacher` names {name} twice", fix="a site has one teacher")
        paths[name] = Path(path)
    return paths


def _print(study: Study, run: Path, cards: list[Card]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    table = Table("teacher", "network", "parameters", "Dice")
    for card in cards:
        network = " · ".join(map(str, [card.model, *card.options.values()]))
        table.add_row(card.site, network, f"{card.parameters:,}", f"{card.dice:.3f}")
    console.print(table)
    answered = {path.name for path in (run / "store").glob("[!.]*")}
    if lacking := [site.name for site in study.sites if site.name not in answered]:
        console.print(f"Still without answers: {', '.join(lacking)}. Name their teachers, too, or take them out.")
    else:
        console.print(f"Go on with: preceptor distill {run}", highlight=False)
