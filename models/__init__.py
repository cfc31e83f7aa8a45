"""Networks by name, and what is read from inside them. Importing this room never imports torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.registry import TAPS, Spec, check_options, create, names, spec

if TYPE_CHECKING:
    from models.taps import tap

__all__ = ["TAPS", "Spec", "check_options", "create", "names", "spec", "tap"]


def __getattr__(name: str) -> Any:
    """`models.tap`, imported with torch when it is first asked for."""
    if name == "tap":
        return import_module("models.taps").tap
    raise AttributeError(f"module `models` has no attribute `{name}`")
