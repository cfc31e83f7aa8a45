"""Names tell patients apart, and which mask is meant, no more."""

from __future__ import annotations

from pathlib import PurePosixPath as P

import pytest

from imaging.names import contradict, likeness, of_file, patients, shared_folders, stem, words


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["hippocampus_001", "hippocampus_008"], ["hippocampus_001", "hippocampus_008"]),
        (
            ["patient001_frame01", "patient001_frame12", "patient002_frame01"],
            ["patient001", "patient001", "patient002"],
        ),
        (["patient001_frame01", "patient001_frame12"], ["patient001", "patient001"]),
        (["10795_1000811", "10795_1000812", "11373_1001396"], ["10795", "10795", "11373"]),
        (["promise12_007", "promise12_008"], ["promise12_007", "promise12_008"]),
        (["t2_17", "t2_18"], ["t2_17", "t2_18"]),
        (["sub-01/ses-1/anat/sub-01_ses-1_T1w", "sub-01/ses-2/anat/sub-01_ses-2_T1w"], ["sub-01", "sub-01"]),
        (["17/t2", "17/adc", "18/t2"], ["17", "17", "18"]),
        (["A/scan1", "A/scan2", "B/scan1"], ["A", "A", "B"]),
        (["T2/Meier", "T2/Rossi", "ADC/Meier"], ["Meier", "Rossi", "Meier"]),
        (["Case12/image", "Case13/image"], ["Case12", "Case13"]),
        (["Meier/images/1", "Kovacs/images/1"], ["Meier", "Kovacs"]),
        (["all/Meier_Anna", "all/Kovacs_Bela"], ["Meier_Anna", "Kovacs_Bela"]),
        (["image"], ["image"]),
    ],
)
def test_the_patient_of_a_path(names: list[str], expected: list[str]) -> None:
    paths = [P(f"{name}.nii.gz") for name in names]
    found = patients(paths)
    assert [found[path] for path in paths] == expected


def test_words_leave_out_what_says_only_image_or_mask() -> None:
    assert words("patient001_frame01_gt") == ("patient1", "frame1")
    assert of_file("case_017_0000") == of_file("case_017") == ("case", "17")
    assert of_file("case-0000") == words("case_0000") == ("case", "0")
    assert of_file("0000") == ("0",)
    assert words("image") == words("label") == words("imagesTr") == ()
    assert stem("a.b.nii.gz") == stem("a.b.nii") == "a.b"


@pytest.mark.parametrize(
    ("mask", "scan", "others"),
    [
        ("patient003_seg", "patient001", True),
        ("patient003_seg", "patient003", False),
        ("case7_gt", "Case007", False),
        ("10795_1000811", "t2_tse_tra", False),
        ("mask", "image", False),
        ("t2_seg", "t2", False),
    ],
)
def test_one_pattern_with_other_numbers_is_another_patient(mask: str, scan: str, *, others: bool) -> None:
    assert contradict(words(mask), words(scan)) is others


def test_the_same_name_is_nearest_then_the_most_shared_words() -> None:
    mask = words("case1_t2_seg")
    scans = [words(name) for name in ("case1_t2", "case1_t2_fs", "case1_adc", "other")]
    scores = [likeness(mask, scan) for scan in scans]
    assert sorted(scores, reverse=True) == scores
    assert scores[0] > scores[1] > scores[2] > scores[3]


def test_shared_folders_are_counted_from_the_top() -> None:
    assert shared_folders(("a", "b", "c"), ("a", "b", "d")) == 2
    assert shared_folders((), ("a",)) == 0
