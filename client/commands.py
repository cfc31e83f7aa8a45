"""`preceptor site …` for a hospital's engineer, and `preceptor evaluate` for the researcher."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.check_command import check_command

if TYPE_CHECKING:
    from client.matrix import Row

site_app = typer.Typer(no_args_is_help=True, help="At a hospital: check a folder of scans, and serve a study.")
site_app.command("check")(check_command)


class Split(StrEnum):
    """Which patients of a site."""

    val = "val"
    test = "test"


@site_app.command("serve")
def serve_command(
    file: Annotated[Path, typer.Argument(metavar="SITE.TOML", help="The site's settings.")],
) -> None:
    """Serve a hospital's scans to a study: train, answer, evaluate; pixels and weights stay here.

    Listens on a unix socket only, never on the network; the node beside it (`flower-supernode`) hands it the
    coordinator's messages. Runs until Ctrl-C or SIGTERM, and goes on from its last checkpoint at the next start.

    A whole site.toml:

        name = "hospital-a"                # as the study names this site
        data = "/data/prostate"            # DICOM or NIfTI with masks; only ever read
        workspace = "/srv/preceptor"       # cache, checkpoints, overlays, logs
        socket = "/run/preceptor/a.sock"   # as the node's --node-config names it
        threads = 4
        keep_mib = 1024                    # of the study lead's slices in the workspace, so that they come once
        teacher = "teacher.onnx"           # only where a model is there already: in place of a training

        [policy]                           # what may leave, whatever is asked
        release = ["logits", "attention", "contrast"]   # others: see `preceptor schemes`
        max_slices = 4096
        max_message_mib = 1024
        average = false                    # true: the student's weights may leave after training on these patients
        evaluations = 64                   # students, in all; metrics of many could tell where an organ lies
        workspace_gib = 200                # a workspace as full begins no new study, teacher or student
        downloads = false                  # true: a teacher may begin with weights from the internet

    Watch it: `tail -f WORKSPACE/service.log`, or `curl --unix-socket SOCKET http://service/status`.

    What left: WORKSPACE/audit.jsonl, one line a reply.
    """
    from client.service import serve
    from client.site import read_site

    serve(read_site(file))


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="A run's folder, which holds study.json.")],
    site: Annotated[
        list[Path] | None, typer.Option(help="site.toml of a site to evaluate at; all in RUN/hospitals when absent.")
    ] = None,
    teacher: Annotated[
        list[Path] | None, typer.Option(help="site.toml of a site whose teacher to evaluate; again for more.")
    ] = None,
    local: Annotated[
        list[Path] | None, typer.Option(help="site.toml of a site whose own student to evaluate; again for more.")
    ] = None,
    student: Annotated[
        list[Path] | None, typer.Option(help="Folder of a student, such as RUN/distill/consensus; again for more.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Which patients of each site.")] = Split.test,
    out: Annotated[Path | None, typer.Option(help="Also write the rows to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Evaluate networks at every site's patients, in one process: the cross-site matrix of a simulation.

    For whoever may read all these folders, as in a simulation on one machine. In a real study no one may: there the
    coordinator's evaluate phase asks each site, and metrics alone come back.

    `preceptor evaluate runs/prostate` evaluates every site's teacher at every site.

    `preceptor evaluate runs/prostate --student runs/prostate/distill/consensus --split val --json` evaluates a student.
    """
    from rich.console import Console

    from client.matrix import matrix
    from client.site import read_site
    from imaging.atomic import write_text
    from imaging.errors import InputError
    from study.run import read_study_of
    from study.training import use_threads

    study = read_study_of(run)
    files = site or [run / "hospitals" / member.name / "site.toml" for member in study.sites]
    sites = [read_site(path) for path in files]
    teachers = [read_site(path) for path in teacher or ([] if student or local else files)]
    alone = [read_site(path) for path in local or []]
    for config in (*sites, *teachers, *alone):
        study.site(config.name)
    use_threads(study.distill.threads)
    with Console(stderr=True).status("reading scans") as status:
        rows = list(
            matrix(
                study,
                sites,
                teachers=teachers,
                students=student or [],
                alone=alone,
                split=split.value,
                progress=lambda network, place: status.update(f"{network} at {place}"),
            )
        )
    if not rows:
        raise InputError("nothing to evaluate", fix="name a --teacher, a --local or a --student")
    content = json.dumps([row.as_json() for row in rows])
    if out is not None:
        write_text(out, content + "\n")
    if as_json:
        typer.echo(content)
    else:
        _print(rows)


def _print(rows: list[Row]) -> None:
    """A line a network, a column a site: mean Dice over cases ± their standard deviation."""
    from rich.console import Console
    from rich.table import Table

    from study.spread import mean_sd

    sites = list(dict.fromkeys(row.site for row in rows))
    table = Table("network", *(f"at {site}" for site in sites), title=f"Dice on each site's {rows[0].split} patients")
    cells = {(row.network, row.site): mean_sd(row.dice, 3) for row in rows}
    for network in dict.fromkeys(row.network for row in rows):
        table.add_row(network, *(cells[network, site] for site in sites))
    Console().print(table)
