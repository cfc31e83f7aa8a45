from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imaging.errors import InputError
from imaging.label_file import check_names

BRATS = {
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
}
CLASSES, CHANNELS = ["background", "edema", "non-enhancing-tumor", "enhancing-tumour"], ["FLAIR", "T1w", "T1Gd", "T2w"]


def write(folder: Path, note: Any) -> Path:
    (folder / "dataset.json").write_text(json.dumps(note))
    return folder


def test_a_decathlon_task_is_named_as_its_file_names_it(tmp_path: Path) -> None:
    check_names(tmp_path, CLASSES, CHANNELS)  # no file
    check_names(write(tmp_path, BRATS), CLASSES, CHANNELS)
    check_names(write(tmp_path, {"labels": {"background": 0, "edema": 1, "whole": [1, 2]}}), CLASSES[:2], [])


def test_labels_that_only_regions_name_may_be_called_anything(tmp_path: Path) -> None:
    regions = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
    check_names(write(tmp_path, {"labels": regions}), ["background", "edema", "necrosis", "enhancing-tumor"], [])
    with pytest.raises(InputError, match="has no label 4, which the study calls `other`"):
        check_names(tmp_path, ["background", "edema", "necrosis", "enhancing tumor", "other"], [])
    with pytest.raises(InputError, match="calls label 3 `enhancing tumor`, the study `core`"):
        check_names(tmp_path, ["background", "edema", "necrosis", "core"], [])


@pytest.mark.parametrize(
    ("classes", "channels", "words"),
    [
        (
            [*CLASSES, "necrosis"],
            CHANNELS,
            "has no label 4, which the study calls `necrosis`; it has 0 background",
        ),
        ([CLASSES[0], CLASSES[2], CLASSES[1]], CHANNELS, "calls label 1 `edema`, the study `non-enhancing-tumor`"),
        (CLASSES, ["T1w", "FLAIR"], "calls channel 0 `FLAIR`, the study `T1w`"),
        (CLASSES, [*CHANNELS, "DWI"], "has no channel 4, which the study calls `DWI`"),
    ],
)
def test_another_order_or_a_missing_label_is_told(
    classes: list[str], channels: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        check_names(write(tmp_path, BRATS), classes, channels)


def test_a_file_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        check_names(tmp_path, CLASSES, CHANNELS)
