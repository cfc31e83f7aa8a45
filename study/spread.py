"""Several figures as one cell of a table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def mean_sd(figures: Iterable[float], digits: int) -> str:
    """`mean ± standard deviation` (n - 1) of those that are defined; one figure has no spread, none is a dash."""
    known = np.array([figure for figure in figures if np.isfinite(figure)])
    if not len(known):
        return "–"
    spread = f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{spread}"
