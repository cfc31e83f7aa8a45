"""One student, bit for bit: a distillation without a break against the same one killed at random moments.

    python benchmarks/killed_job.py STUDY [ANSWERS] [--kills 20] [--steps 200] [--scheme amtkd] [--json]

`preceptor distill STUDY --answers ANSWERS` runs once whole; a study that asks no teacher needs no answers. Then,
`--kills` times and each time in a fresh folder, it is ended with SIGKILL at a moment drawn (seeded) from its whole
time, start-up and reading of scans and answers included, and the same command runs again to its end. Compared are the
SHA-256 of the students' weights.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from study.run import events

LABEL = "killed"


@dataclass(frozen=True)
class Kill:
    """When it was, where the job stood, and whether the student came out the same."""

    after_s: float
    stood: str
    same: bool


def start(chosen: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "preceptor", "distill", str(chosen.study)]
    words += ["--answers", str(chosen.answers)] if chosen.answers else []
    words += ["--out", str(folder), "--scheme", chosen.scheme, "--label", LABEL]
    words += ["--set", f"steps={chosen.steps}", "--set", f"validate_every={max(1, chosen.steps // 10)}"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(said.decode())


def student(folder: Path) -> str:
    card = json.loads((folder / "distill" / LABEL / "student.json").read_bytes())
    return str(card["weights_hash"])


def stands(folder: Path) -> str:
    """How far the job in that folder came."""
    steps = [event["step"] for event in events(folder / "distill" / LABEL) if event["kind"] == "step"]
    if steps:
        return f"step {steps[-1]}"
    caches = (("distill/answers-cache", "reading answers"), ("student", "slices read"), ("study.json", "begun"))
    return next((words for path, words in caches if (folder / path).exists()), "starting")


def kill_once(chosen: argparse.Namespace, folder: Path, after_s: float, expected: str) -> Kill | None:
    """Kill a fresh job then, and let it end; None where it had ended by itself."""
    process = start(chosen, folder)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        stood = stands(folder)
        end(start(chosen, folder))
        return Kill(round(after_s, 2), stood, student(folder) == expected)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("answers", type=Path, nargs="?", help="a run folder whose answers have been collected")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--scheme", default="amtkd")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    kills: list[Kill] = []
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        end(start(chosen, Path(place) / "whole"))
        whole_s, expected, tries = time.monotonic() - began, student(Path(place) / "whole"), 0
        while len(kills) < chosen.kills and tries < 3 * chosen.kills:
            tries, began = tries + 1, time.monotonic()
            found = kill_once(chosen, Path(place) / str(tries), draw.uniform(0, whole_s), expected)
            if found is None:  # the machine was busier before
                whole_s = time.monotonic() - began
            if found and not chosen.json:
                words = "the same student" if found.same else "ANOTHER STUDENT"
                print(f"killed after {found.after_s:5.1f} s of {whole_s:.1f} ({found.stood}): {words}", flush=True)
            kills += [found] if found else []
    if chosen.json:
        print(json.dumps({"whole_s": whole_s, "hash": expected, "kills": [asdict(kill) for kill in kills]}))
    sys.exit(0 if len(kills) == chosen.kills and all(kill.same for kill in kills) else 1)


if __name__ == "__main__":
    main()
