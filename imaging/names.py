"""What names of files and folders tell: which patient it is, and which of several masks is meant."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import PurePath

GENERIC = re.compile(
    r"(images?|imgs?|scans?|volumes?|masks?|segs?|segmentations?|labels?|annotations?|contours?)(tr|ts)?"
    r"|gt|ground|truth|manual|original|roi|data|anat|train(ing)?|test"
)
"""Words that say image or mask, and of whom nothing."""
NUMBERED = re.compile(rf"^({GENERIC.pattern})(?=\d+$)")
"""The same before a number: `img0001`, `label0001`."""
PATIENT = re.compile(r"(?i)(?<![a-z])(?:sub|subj|subject|patient|pat|pt|case|person|volunteer)[-_ ]?\d+")
"""A word that can only be a patient, such as `sub-01` or `Case12`."""
SEQUENCE = re.compile(r"(?i)(t[12](w|ce|c|gd)?|adc|dwi|flair|pd|b\d+|ct|mri?|cbct|pet)")
"""How a scan was made, which names nobody."""

Words = tuple[str, ...]


def stem(name: str) -> str:
    """A file's name without its endings: `case.nii.gz` → `case`."""
    return re.sub(r"(?i)(\.nii)?(\.gz)?$|\.dcm$", "", name)


@cache
def words(*names: str) -> Words:
    """`patient001_frame01_gt` → `patient1`, `frame1`: lower-case, numbers without leading zeros, no generic words."""
    parts = re.findall(r"[^\W_]+", " ".join(names).lower())
    telling = [NUMBERED.sub("", part) for part in parts if not GENERIC.fullmatch(part)]
    return tuple(re.sub(r"\d+", lambda digits: str(int(digits[0])), part) for part in telling)


def of_file(name: str) -> Words:
    """`words` of a file's name without endings, and without nnU-Net's number of the channel: `case_017_0000`."""
    return words(re.sub(r"(?<=[^\W_])_0000$", "", name))


def contradict(a: Words, b: Words) -> bool:
    """Whether two names follow one pattern with other numbers, as `patient001` and `patient003_seg` do."""
    return a != b and _pattern(a) == _pattern(b) != a


def numbered(names: Words) -> Words:
    """The words that hold a number, but sequences: where `001_t2` and `readings/002/prostate` can be compared."""
    return tuple(word for word in names if re.search(r"\d", word) and not SEQUENCE.fullmatch(word))


def same_patient(a: PurePath, b: PurePath) -> bool | None:
    """Whether two paths number one patient alike (`x/Case07/t2`, `y/case_7/mask`); None where one has no such word."""
    one, other = _patients(a), _patients(b)
    if not one or not other:
        return None
    common = one.keys() & other.keys()
    pairs = [(one[kind], other[kind]) for kind in common] or [
        (set().union(*one.values()), set().union(*other.values()))
    ]
    return not any(mine.isdisjoint(theirs) for mine, theirs in pairs)


def _patients(path: PurePath) -> dict[str, set[int]]:
    """`case12/sub-01.nii` → case: 12, sub: 1."""
    found = defaultdict(set)
    for match in PATIENT.finditer(str(path)):
        kind, number = re.split(r"[-_ ]|(?<=[A-Za-z])(?=\d)", match[0])
        found[kind.lower()].add(int(number))
    return found


def told(names: Words) -> set[str]:
    """Words that may tell of whom: a sequence tells how a scan was made."""
    return {word for word in names if not SEQUENCE.fullmatch(word)}


def strangers(a: Words, b: Words) -> bool:
    """Whether two paths begin alike, then name somebody each, and nothing alike: `north/anna`, `north/berta`."""
    start = shared_folders(a, b)
    one, other = told(a[start:]), told(b[start:])
    return bool(one) and bool(other) and one.isdisjoint(other)


@cache
def _pattern(name: Words) -> Words:
    return tuple(re.sub(r"\d+", "#", word) for word in name)


def likeness(mask: Words, scan: Words) -> tuple[bool, float]:
    """How near a mask's name is to a scan's: whether they are the same, and the share of its words that recur."""
    return mask == scan, len(set(mask) & set(scan)) / len(set(mask)) if mask else 1.0


def shared_folders(a: Sequence[str], b: Sequence[str]) -> int:
    """How many folders two paths have in common, from the top."""
    count = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        count += 1
    return count


def patients(paths: Sequence[PurePath]) -> dict[PurePath, str]:
    """The patient of each NIfTI file, from its path inside the cohort.

    A word such as `patient001` anywhere in the path. Else the start of the file's name up to the first number that is
    not the same everywhere (`hippocampus_001`, `10795_1000811` → `10795`), or the whole name where it has no number.
    Where folders hold the same starts (`A/scan1`, `A/scan2`, `B/scan1`), or the name tells nothing (`image`), each
    folder is a patient, unless it is named for a sequence only.
    """
    starts = _starts([stem(path.name) for path in paths])
    folders = defaultdict(set)
    for path in paths:
        folders[starts[stem(path.name)]].add(path.parent)
    alike = {folder for places in folders.values() if len(places) > 1 for folder in places}
    found = {}
    for path in paths:
        start = starts[stem(path.name)]
        named = [match[0] for part in (*path.parent.parts, stem(path.name)) if (match := PATIENT.search(part))]
        own = [part for part in reversed(path.parent.parts) if not all(map(SEQUENCE.fullmatch, words(part)))]
        by_folder = not start or path.parent in alike
        found[path] = next(iter([*named, *(own if by_folder else []), start or stem(path.name)]))
    return found


def _starts(stems: Iterable[str]) -> dict[str, str]:
    """The start of each name up to its first number that tells files apart (else the whole); "" if it tells nothing."""
    pieces = {name: list(re.finditer(r"[^\W_]+", name)) for name in stems}
    common = Counter(word for parts in pieces.values() for word in {part[0] for part in parts})

    def telling(word: str) -> bool:
        everywhere = common[word] == len(pieces) > 1
        return re.search(r"\d", word) is not None and not everywhere and not SEQUENCE.fullmatch(word)

    starts = {}
    for name, parts in pieces.items():
        end = next((part.end() for part in parts if telling(part[0])), 0)
        empty = all(GENERIC.fullmatch(part[0].lower()) or SEQUENCE.fullmatch(part[0]) for part in parts)
        starts[name] = name[:end] if end else "" if empty else name
    return starts
