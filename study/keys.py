"""The keys of a plan: what each means, and in a few words what is wrong with one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Row = tuple[str, str, str, str]
"""Key, type, default, meaning."""
WORDS = {Any: "value", str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
TOML = {"array": "a list", "list": "a list", "tuple": "a list", "object": "a table", "dictionary": "a table"}
TOML |= {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
"""What pydantic calls a valid …, in words of the file's own language."""
LENGTHS = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}
BRACKETS = {tuple: "[{}]", list: "list of {}", dict: "table of {}"}


def rows(plan: type[BaseModel], above: str = "") -> Iterator[Row]:
    """Every key of a plan and of the tables in it, which stand one after the other: `teacher.lr`, `sites[].name`."""
    for name, field in plan.model_fields.items():
        key, tables = above + name, _tables(field.annotation)
        if field.description or not tables:
            yield key, _type(field.annotation), _default(field), _line(field.description)
        for table in tables:
            within = rows(table, f"{key}{'[]' * (get_origin(field.annotation) is list)}.")
            yield from within if len(tables) == 1 else _of_kind(within)


def _of_kind(table: Iterator[Row]) -> Iterator[Row]:
    """The rows of one of several kinds of table; the key that it begins with tells its kind."""
    key, *rest = next(table)
    yield key, rest[0], "tells the kind", rest[2]
    for other, kind, default, meaning in table:
        yield other, kind, f"required with `{key.rpartition('.')[2]}`" if default == "required" else default, meaning


def faults(error: ValidationError, *, file: str, plan: type[BaseModel] | None = None) -> str:
    """Each fault: its key, what is wrong, what stood there; for a key unknown to `file` the nearest one of `plan`."""
    known = [row[0] for row in rows(plan)] if plan else []
    lines = [_fault(fault, file, known) for fault in error.errors(include_url=False) if not _follows(fault)]
    return "; ".join(dict.fromkeys(lines))


def _follows(fault: ErrorDetails) -> bool:
    """Whether a list is called too short only since one of its values is wrong, which is told by itself."""
    return fault["type"] == "too_short" and len(fault["input"]) >= fault["ctx"]["min_length"]


def _fault(fault: ErrorDetails, file: str, known: list[str]) -> str:
    path = [part for part in fault["loc"] if not str(part).startswith("<")]  # "<…>" tags a union's member
    key = re.sub(r"\.(\d+)(?=\.|$)", lambda index: f" no. {int(index[1]) + 1}", ".".join(map(str, path)))
    got = fault["input"]
    if fault["type"] == "extra_forbidden":
        near = get_close_matches(re.sub(r" no\. \d+", "[]", key), known, n=1, cutoff=0.8)
        words = f"is not a key of {file}" + (f", did you mean `{near[0].rpartition('.')[2]}`?" if near else "")
    elif fault["type"] == "missing":
        words = "is missing"
    elif fault["type"] == "model_type":
        words = f"is a table of keys, got {json.dumps(got)}"
    elif fault["type"] == "string_pattern_mismatch":  # names are all that has a pattern
        words = f"use lower-case letters, digits and hyphens, at most 41, got {json.dumps(got)}"
    elif fault["type"] in LENGTHS:
        bound, limit = LENGTHS[fault["type"]]
        count = fault["ctx"][limit]
        words = f"should have {bound} {count} value{'s' * (count != 1)}, got {len(got)}"
    else:
        words = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
        for theirs, ours in TOML.items():
            words = words.replace(f"a valid {theirs}", ours)
        if fault["type"] != "value_error" and isinstance(got, str | int | float):
            words += f", got {json.dumps(got)}"
    return f"{key}: {words}" if key else words


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """The tables that a field holds, one or several of them, or one of several kinds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables(part)]


def _type(annotation: Any) -> str:
    kind, parts = get_origin(annotation), get_args(annotation)
    if _tables(annotation):
        return "tables" if kind is list else "table"
    if kind is Literal:
        return " or ".join(json.dumps(choice) for choice in parts)
    told = parts[:1] if kind is Annotated else parts[1:] if kind is dict else parts
    words = [_type(part) for part in told if part not in (NoneType, Ellipsis)]
    if kind in BRACKETS:
        return BRACKETS[kind].format(", ".join(words))
    return " or ".join(words) if words else WORDS.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if default is None else json.dumps(default)


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
