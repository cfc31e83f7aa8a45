"""`preceptor compare`: schemes over seeds, each seed a simulation of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.commands import by_itself, check_networks, stoppable

if TYPE_CHECKING:
    from study.plan import Distill, Study


def compare_command(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(help="The study.toml.")],
    schemes: Annotated[
        str,
        typer.Option(
            help="Ids of `preceptor schemes` and names of the study's variants with commas between them, or `all`; "
            "the study's unless given."
        ),
    ] = "",
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="SITE", help="Also the study's scheme without that site's teacher; again for more."),
    ] = None,
    each_teacher: Annotated[
        bool, typer.Option("--each-teacher", help="Also a student of each teacher alone (AMTKD, Table 3).")
    ] = False,
    networks: Annotated[
        str,
        typer.Option(
            help="Also these light networks, with commas between them: for the reference, the study's scheme and each "
            "teacher's student (AMTKD, Tables 3 and 4)."
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How many: 0, 1, 2, …")] = 3,
    reference: Annotated[str, typer.Option(help="What the others are compared with.")] = "supervised",
    out: Annotated[
        Path | None, typer.Option(help="Folder; `runs/compare-NAME` unless given.", show_default=False)
    ] = None,
) -> None:
    """Compare schemes over seeds: every seed has phantoms, splits and teachers of its own, and all students share them.

    `preceptor compare studies/prostate.toml --schemes all --seeds 5` leaves comparison.md, .json and .svg in
    runs/compare-prostate: figures with their spread and their distance to all teachers together, differences paired by
    patient with 95 % intervals over runs and over patients, and how firm the ranking is.

    `preceptor compare studies/prostate.toml --each-teacher --networks enet,mobilenetv2` adds the same students by
    other networks, and those of one teacher each.

    Hours of work: Ctrl-C stops everything, the same command goes on from there, and more seeds or schemes add to it.
    """
    from rich.console import Console

    from imaging.phantom import PROFILES
    from server.simulation import simulate
    from study.plan import check_rooms, read_study

    known = list(context.obj["schemes"])
    base = read_study(study)
    chosen = students(base, schemes, reference, known=context.obj["fitting"](base), without=without or [])
    more = variants(base, reference, without=without or [], each_teacher=each_teacher, networks=_names(networks))
    plan = with_students(base, chosen, more, study)
    check_rooms(plan, schemes=known, phantoms=PROFILES)
    plan = with_contents(plan, study)
    check_networks(study)
    folder, console = (out or Path("runs") / f"compare-{plan.name}").resolve(), Console(soft_wrap=True)
    runs = [folder / f"seed-{seed}" for seed in range(seeds)]
    with stoppable(console):
        for seed, run in enumerate(runs):
            console.rule(f"seed {seed}, {seed + 1} of {seeds}")
            simulate(plan.model_copy(update={"seed": seed}), run, console)
    typer.echo(by_itself("tables", *map(str, runs), "--reference", reference, "--out", str(folder)))


def students(study: Study, listed: str, reference: str, *, without: list[str], known: Sequence[str] = ()) -> list[str]:
    """Names of the schemes and variants that are compared: the reference, and those `listed`, or the study's.

    `known` is what `all` stands for, beside the study's variants.
    """
    plan = study.distill
    asked = [*known, *plan.variants] if listed == "all" else _names(listed) or plan.students
    beside = [plan.scheme] if without else []  # what the student without a teacher is to be seen beside
    return list(dict.fromkeys(one for name in [reference, *asked, *beside] for one in _begun(plan, name)))


def _begun(plan: Distill, name: str) -> list[str]:
    """A student's name, after those whose weights it begins with."""
    start = plan.of(name).start
    return [*(_begun(plan, start) if start else []), name]


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def variants(
    study: Study, reference: str, *, without: list[str], each_teacher: bool, networks: list[str]
) -> dict[str, dict[str, Any]]:
    """Students beside the study's own, by name, as `[distill.variants]` would tell of them."""
    plan = study.distill
    found: dict[str, dict[str, Any]] = {
        f"without-{site}": {"scheme": plan.scheme, "without": [*plan.without, site]} for site in without
    }
    alone = {f"only-{site.name}": {"scheme": "mono-teacher", "mono_teacher": site.name} for site in study.sites}
    found |= alone if each_teacher else {}
    rows = {name: _row(study, name) for name in (reference, plan.scheme)}
    rows |= alone if each_teacher else {}
    others = [network for network in networks if network != study.student.model]
    return found | {
        f"{name}-{network}": {**row, "network": network} for network in others for name, row in rows.items()
    }


def with_students(study: Study, names: list[str], more: dict[str, dict[str, Any]], file: Path) -> Study:
    """The study with exactly these students: schemes and variants of its own by name, and more variants.

    Raises: InputError where a variant cannot be, such as one without a site that nobody knows.
    """
    from imaging.errors import InputError
    from study.plan import checked

    plan = study.distill
    mine = {name: _row(study, name) for name in names if name in plan.variants}
    if clash := sorted(mine.keys() & more.keys()):
        fix = "give that variant another name"
        raise InputError(
            f"`distill.variants.{clash[0]}` has the name of a student that is asked for", where=file, fix=fix
        )
    schemes = list(dict.fromkeys(name for name in names if name not in mine))
    ships = plan.scheme if plan.scheme in schemes or not schemes else schemes[-1]
    rest = [name for name in schemes if name != ships]
    students = {"scheme": ships, "compare": rest, "variants": mine | more}
    content = study.model_dump(mode="json")
    return checked({**content, "distill": {**content["distill"], **students}}, file)


def _row(study: Study, name: str) -> dict[str, Any]:
    """A scheme, or a variant of the study's, as `[distill.variants]` would tell of it."""
    plan = study.distill
    return {"scheme": plan.scheme, **plan.variants[name]} if name in plan.variants else {"scheme": name}


def with_contents(study: Study, file: Path) -> Study:
    """The study with everything asked of the sites that its students need, beside what it asks already."""
    rows = {row["name"]: row["contents"] for row in json.loads(by_itself("schemes", "--study", str(file), "--json"))}
    names = [name if name in rows else study.distill.of(name).scheme for name in study.distill.students]
    needed = {content for name in names for content in rows[name]}
    asked = [*study.answers.contents, *sorted(needed - set(study.answers.contents))]
    return study.model_copy(update={"answers": study.answers.model_copy(update={"contents": asked})})
