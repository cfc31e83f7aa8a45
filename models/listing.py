"""The networks and what they cost, as `preceptor models` prints them."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from models.entry import Spec
from models.registry import create, spec


def row(
    entry: Spec,
    classes: int,
    options: dict[str, str | int],
    *,
    in_channels: int = 1,
    size: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """One network as `--json` prints it, at its entry's size unless another is given.

    The paper's figures are null where classes, channels, size or an option make it another network.
    """
    from models.cost import cost  # noqa: PLC0415 (torch, not before a network is wanted)

    shape = size or entry.size
    counted = cost(create(entry.name, in_channels, classes, size=shape, **options), shape)
    printed = not options and (in_channels, classes, shape) == (1, 2, entry.size)
    build = entry.build_with(options)
    return {
        "name": entry.name,
        "role": entry.role,
        "dims": entry.dims,
        "title": entry.title if "encoder" not in options else f"{entry.name} on {options['encoder']}",
        "paper": entry.paper,
        "channels": in_channels,
        "classes": classes,
        "size": shape,
        "options": options,
        "parameters": counted.parameters,
        "flops": counted.flops,
        "paper_parameters": entry.paper_parameters if printed else None,
        "paper_flops": entry.paper_flops if printed else None,
        "size_multiple": build.multiple,
        "fixed_size": build.fixed_size,
        "taps": {tap: {"channels": c, "stride": shape[0] // side} for tap, (c, side, *_) in counted.taps.items()},
    }


def table(rows: list[dict[str, Any]]) -> Group:
    """The same rows for a reader, within 80 columns, networks of slices and of volumes apart."""
    slices, volumes = ([each for each in rows if each["dims"] == dims] for dims in (2, 3))
    return Group(*(shown(part) for part, shown in ((slices, table_of_slices), (volumes, table_of_volumes)) if part))


def table_of_slices(rows: list[dict[str, Any]]) -> Table:
    """A tap is channels/stride, the encoder's before the decoder's."""
    title = f"One slice of {times(rows[0])}, {rows[0]['classes']} classes; in brackets AMTKD's Table 2"
    return tabulated(title, "role", [(each["role"], each) for each in rows])


def table_of_volumes(rows: list[dict[str, Any]]) -> Table:
    """Students and teachers alike; one with a star is built for its size."""
    title = f"One patch, {rows[0]['classes']} classes; * takes that size alone"
    return tabulated(title, "size", [(times(each) + "*" * each["fixed_size"], each) for each in rows])


def tabulated(title: str, second: str, rows: list[tuple[str, dict[str, Any]]]) -> Table:
    """A table whose second column is given beside each row."""
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("network", second, "parameters", "GFLOPs", "taps"):
        numeric = heading in ("parameters", "GFLOPs")
        shown.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for label, each in rows:
        taps = ", ".join(f"{tap['channels']}/{tap['stride']}" for tap in each["taps"].values())
        shown.add_row(each["name"], label, *figures(each), taps)
    options = {each["name"]: ", ".join(spec(each["name"]).options) for _, each in rows}
    shown.caption = "Options: " + "; ".join(f"{name} {own}" for name, own in options.items() if own)
    shown.caption_justify = "left"
    return shown


def times(each: dict[str, Any]) -> str:
    """Channels and size: "1×384×384"."""
    return "×".join(map(str, (each["channels"], *each["size"])))


def figures(each: dict[str, Any]) -> tuple[str, str]:
    """Parameters and FLOPs, each with the paper's behind it where there is one."""
    parameters, flops = f"{each['parameters']:,}", f"{each['flops'] / 1e9:.2f}"
    if each["paper_flops"] is None:
        return parameters, flops
    return f"{parameters} ({each['paper_parameters'] / 1e6:g})", f"{flops} ({each['paper_flops'] / 1e9:g})"
