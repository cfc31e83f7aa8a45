"""`preceptor study`: check a study.toml, or explain every key that one may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def study_command(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="A study.toml to check; without one, every key is explained.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check a study file, or explain every key of it.

    `preceptor study studies/prostate.toml` says what the file asks for, or names each wrong key with its remedy.

    `preceptor study` lists every key with its type, default and meaning.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from imaging.phantom import PROFILES
    from study.plan import check_networks, check_rooms, read_study, reference

    console = Console()
    if file is not None:
        study = read_study(file)
        check_rooms(study, schemes=context.obj["schemes"], phantoms=PROFILES)
        with Console(stderr=True).status("building its networks"):
            check_networks(study)
            context.obj["check"](study)
        if as_json:
            console.print_json(study.model_dump_json())
        else:
            size = f"{len(study.sites)} site{'s' * (len(study.sites) > 1)}, {study.classes} classes"
            console.print(
                f"[bold]{study.name}[/] is sound as a file: {size}, hash {study.hash()}; no scan was looked at"
            )
        return
    rows = reference()
    if as_json:
        console.print_json(
            json.dumps([dict(zip(("key", "type", "default", "meaning"), row, strict=True)) for row in rows])
        )
        return
    rest = (Column(name, overflow="fold") for name in ("type", "default", "meaning"))
    table = Table(Column("key", no_wrap=True), *rest, title="study.toml", show_lines=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
