"""Sizes of images that a network takes, and the nearest that fit in place of one that does not."""

from __future__ import annotations

from imaging.errors import InputError

SIDES = {2: "height and width", 3: "depth, height and width"}
IMAGES = {2: "slices", 3: "patches"}


def shown(size: tuple[int, ...]) -> str:
    """A size for a reader: "32 × 48"."""
    return " × ".join(map(str, size))


def fits(size: tuple[int, ...], multiple: int, *, one_cell: bool = True) -> bool:
    """Whether every side is a multiple of `multiple`, and one is twice that or more unless `one_cell` may be all."""
    whole = all(side > 0 and side % multiple == 0 for side in size)
    return whole and (one_cell or max(size) > multiple)


def nearest(size: tuple[int, ...], multiple: int, *, one_cell: bool = True) -> list[tuple[int, ...]]:
    """The sizes below and above that fit."""
    down = tuple(side // multiple * multiple for side in size)
    up = tuple(-(-max(side, 1) // multiple) * multiple for side in size)
    up = up if fits(up, multiple, one_cell=one_cell) else tuple(2 * side for side in up)
    return [one for one in (down, up) if fits(one, multiple, one_cell=one_cell)]


def check_size(size: tuple[int, ...], multiple: int, *, one_cell: bool = True, what: str) -> None:
    """InputError with the nearest sizes unless this one fits; `what` is said of it: "`enet` was given"."""
    if fits(size, multiple, one_cell=one_cell):
        return
    dims = len(size)
    rule = f"{SIDES[dims]} are multiples of {multiple}{'' if one_cell else f' and not all of them {multiple}'}"
    such = " or ".join(map(shown, nearest(size, multiple, one_cell=one_cell)))
    raise InputError(f"{what} {IMAGES[dims]} of {shown(size)}", fix=f"{rule}, such as {such}")
