from __future__ import annotations

import pytest
from pydantic import ValidationError

from study.mod_table import SMALL_HEADS, Mod


def test_without_a_key_it_is_the_paper() -> None:
    table = Mod.strictly({})
    assert (table.mod_weight, table.patch, table.token, table.ratio, table.ema) == (1.0, 1.5, 0.5, 0.6, 0.996)
    assert (table.tokenizer, table.predictor, table.ship, table.masked_views) == (True, True, "student", 2)
    assert table.heads == (8192, 2048, 256)


def test_presets_are_values_of_the_table() -> None:
    assert Mod.strictly({"mod_weight": 0.001, "heads": list(SMALL_HEADS)}).heads == SMALL_HEADS


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"heads": [0, 1, 2]}, "three whole numbers of at least 1"),
        ({"blur": [2.0, 1.0]}, r"`blur` is \[2.0, 1.0\]"),
        ({"gamma": [0.0, 1.0]}, r"`gamma` is \[0.0, 1.0\]"),
        ({"patch_temperature": [0.0, 0.1]}, "temperatures are above 0"),
        ({"ratio": 1.0}, "less than 1"),
        ({"masked_views": 3}, "Input should be 1 or 2"),
        ({"ships": "teacher"}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Mod.strictly(wrong)


def test_every_key_says_what_it_is_and_where_it_is_from() -> None:
    for name, field in Mod.model_fields.items():
        text = field.description or ""
        assert any(word in text for word in ("section", "Eq.", "ours", "iBOT", "Table", "Algorithm", "paper")), name
