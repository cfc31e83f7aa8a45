"""What every table of study.toml is."""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Plan(BaseModel):
    """A table of study.toml: frozen, and a key it does not know is refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def strictly(cls, content: dict[str, Any]) -> Self:
        """The table from what was read of a file, or ValidationError; `"8"` and `true` are no numbers."""
        return cls.model_validate_json(json.dumps(content, default=str), strict=True)  # JSON has lists for tuples, too
