"""A student's card."""

from __future__ import annotations

from typing import Any

import pytest

from study.plan import Study
from study.student import StudentCard


@pytest.mark.parametrize(("spacing", "expected"), [(None, 0.7), ([1.5, 2.0], 2.0)])
def test_a_card_tells_how_wide_the_pixels_were(content: dict[str, Any], spacing: Any, expected: float) -> None:
    content["preprocess"]["spacing_mm"] = spacing
    card = StudentCard.of(
        Study.model_validate(content), label="amtkd", scheme="amtkd", seed=0, parameters=9, steps=4, best_step=4,
        val_dice=None, history=[], seconds=1.0, weights_hash="b" * 64, teachers=[], pixel_mm=0.7,
    )  # fmt: skip
    assert card.pixel_mm == expected
