"""`preceptor models`: the networks and what they cost."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from models.registry import Spec, create, names, spec

SIDE = 384
"""Rows and columns of the image that Table 2 of AMTKD counts for."""


def models_command(
    name: Annotated[str | None, typer.Argument(help="One network; all of them when left out.")] = None,
    classes: Annotated[int, typer.Option(min=1, max=255, help="Classes, background included.")] = 2,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of segmentation-models-pytorch for the networks that take one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the networks: parameters, FLOPs at 1×384×384 beside the paper's Table 2, and where their taps lie.

    preceptor models

    preceptor models enet --classes 4

    preceptor models --encoder resnet18 --json
    """
    chosen = [spec(name)] if name else [entry for entry in map(spec, names()) if entry.with_encoder or not encoder]
    options: dict[str, str | int] = {"encoder": encoder} if encoder else {}
    with Console(stderr=True).status("Counting parameters and FLOPs"):
        rows = [row(entry, classes, options) for entry in chosen]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        Console().print(table(rows))


def row(entry: Spec, classes: int, options: dict[str, str | int]) -> dict[str, Any]:
    """One network as `--json` prints it; the paper's figures are null where an option makes it another network."""
    from models.cost import cost

    counted = cost(create(entry.name, 1, classes, **options), (SIDE, SIDE))
    printed = not options and classes == 2
    return {
        "name": entry.name,
        "role": entry.role,
        "title": entry.title if not options else f"{entry.name} on {options['encoder']}",
        "paper": entry.paper,
        "classes": classes,
        "options": options,
        "parameters": counted.parameters,
        "flops": counted.flops,
        "paper_parameters": entry.paper_parameters if printed else None,
        "paper_flops": entry.paper_flops if printed else None,
        "size_multiple": entry.build_with(options).multiple,
        "taps": {tap: {"channels": c, "stride": SIDE // h} for tap, (c, h, _) in counted.taps.items()},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The same rows for a reader, within 80 columns; a tap is channels/stride, the encoder's before the decoder's."""
    title = f"One slice of 1×{SIDE}×{SIDE}, {rows[0]['classes']} classes; in brackets AMTKD's Table 2"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("network", "role", "parameters", "GFLOPs", "taps"):
        numeric = heading in ("parameters", "GFLOPs")
        shown.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for each in rows:
        taps = ", ".join(f"{tap['channels']}/{tap['stride']}" for tap in each["taps"].values())
        shown.add_row(each["name"], each["role"], *figures(each), taps)
    return shown


def figures(each: dict[str, Any]) -> tuple[str, str]:
    """Parameters and FLOPs, each with the paper's behind it where there is one."""
    parameters, flops = f"{each['parameters']:,}", f"{each['flops'] / 1e9:.2f}"
    if each["paper_flops"] is None:
        return parameters, flops
    return f"{parameters} ({each['paper_parameters'] / 1e6:g})", f"{flops} ({each['paper_flops'] / 1e9:g})"
