"""Keep what the tables of finished runs are made of, without scans, answers and weights.

    python benchmarks/kept.py runs/compare-tables-cardiac/seed-* --out docs/measured/tables-cardiac

`preceptor tables docs/measured/tables-cardiac/seed-*` then makes the same tables, years later and elsewhere. Kept are
each patient's metrics, the teachers' at every site, and the students' cards; folders of scans keep their last name.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from imaging.atomic import write_text

KEPT = ("study.json", "cross.json", "evaluation/*/*.json", "distill/*/student.json")


def bare(value: Any) -> Any:
    """The same, its folders by their last name alone: where somebody's scans lie is nobody's business."""
    if isinstance(value, list):
        return [bare(item) for item in value]
    if isinstance(value, dict):
        return {key: Path(item).name if key == "folder" else bare(item) for key, item in value.items()}
    return value


def keep(run: Path, folder: Path) -> int:
    """How many files were written for that run."""
    evaluated = {path.name for path in run.glob("evaluation/*")}
    found = sorted(path for pattern in KEPT for path in run.glob(pattern))
    files = [path for path in found if path.name != "student.json" or path.parent.name in evaluated]
    for path in files:
        content = json.dumps(bare(json.loads(path.read_bytes())), separators=(",", ":"))
        write_text(folder / path.relative_to(run), content + "\n")
    return len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for run in arguments.runs:
        print(f"{run}: {keep(run, arguments.out / run.name)} files")


if __name__ == "__main__":
    main()
