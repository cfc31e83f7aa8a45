"""`preceptor models`: the networks, what they cost, and what a way to train them adds while it lasts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import models
from imaging.errors import InputError
from models.entry import Spec
from models.listing import row, table

if TYPE_CHECKING:
    from study.learners import Alone

TRAINING_ONLY = "training_only_parameters"


def models_command(
    name: Annotated[str | None, typer.Argument(help="One network; all of them when left out.")] = None,
    classes: Annotated[int, typer.Option(min=1, max=255, help="Classes, background included.")] = 2,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of segmentation-models-pytorch for the networks that take one.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the network, such as width=8; may be given again.")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="dsd, missu or mod: count what it adds in training and leaves behind.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the networks: parameters, FLOPs and where their taps lie.

    Networks of slices are counted at 1×384×384, beside the paper's Table 2; networks of volumes at one patch of the
    size in the table, which some of them are built for.

    preceptor models

    preceptor models enet --classes 4

    preceptor models --encoder resnet18 --json

    preceptor models dynunet --classes 3 --option width=8 --scheme dsd --json
    """
    options = options_of(option or []) | ({"encoder": encoder} if encoder else {})
    way = _way(scheme) if scheme else None
    every = map(models.spec, models.names())
    chosen = [models.spec(name)] if name else [one for one in every if _fits(one, options, way)]
    with Console(stderr=True).status("Counting parameters and FLOPs"):
        rows = [row(entry, classes, options) for entry in chosen]
        if way:
            for entry, each in zip(chosen, rows, strict=True):
                each[TRAINING_ONLY] = training_only(entry, classes, options, way)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    Console().print(table(rows))
    for each in rows if way else ():
        typer.echo(f"{each['name']}: {way} adds {each[TRAINING_ONLY]:,} parameters in training, none of which leave")


def options_of(words: list[str]) -> dict[str, str | int]:
    """`["width=8"]` → `{"width": 8}`; InputError for words of another form."""
    found: dict[str, str | int] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise InputError(f"`--option {word}` is no option", fix="write it as `--option width=8`")
        found[key] = int(value) if value.isdecimal() else value
    return found


def training_only(entry: Spec, classes: int, options: dict[str, str | int], way: Alone) -> int:
    """Parameters that this way to train, by its default table, trains beside the network."""
    from study import learners
    from study.plan import Teacher

    network = models.create(entry.name, 1, classes, size=entry.size, **options)
    learner = learners.create(way, network, Teacher(), learners.Shown(entry.size, 1, classes), steps=1)
    return _count(learner) - _count(network)


def _way(word: str) -> Alone:
    """The way to train of that name; InputError for an unknown one."""
    from study.learners import ALONE
    from study.tables import unknown

    found = next((way for way in ALONE if way == word), None)
    if found is None:
        raise InputError(unknown("scheme", word, list(ALONE)), fix="`--scheme dsd`")
    return found


def _count(module: Any) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def _fits(entry: Spec, options: dict[str, str | int], way: Alone | None) -> bool:
    """Whether the network takes these options, and has what that way to train attaches to."""
    if not all(option in entry.options for option in options):
        return False
    build = entry.build_with(options)
    return not way or bool(build.bottom if way == "mod" else build.stages)
