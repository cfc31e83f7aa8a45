"""Several figures as one cell of a table."""

from __future__ import annotations

from math import nan

from study.spread import mean_sd


def test_the_spread_is_over_n_minus_one_and_digits_are_kept() -> None:
    assert mean_sd([1.0, 2.0, 4.0], 3) == "2.333 ± 1.528"


def test_one_figure_has_no_spread_and_undefined_ones_count_for_nothing() -> None:
    assert mean_sd([0.5, nan], 2) == "0.50"
    assert mean_sd([0.5, nan, 0.7], 1) == "0.6 ± 0.1"
    assert mean_sd([nan], 3) == mean_sd([], 3) == "–"
