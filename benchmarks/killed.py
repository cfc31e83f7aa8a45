"""One student, bit for bit: a study played without a break against the same study killed once in every part.

    python benchmarks/killed.py [STUDY] [--json]

The second play is ended with SIGKILL (every process of it at once) in the middle of each part, and started again with
the same command. Compared are the SHA-256 of every teacher's weights, as its card states it, and of every student's.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from study.run import events

Reached = Callable[[Path], bool]


def heard(kind: str, **values: object) -> Reached:
    """Whether such an event was written in the run folder."""
    return lambda run: any(e["kind"] == kind and values.items() <= e.items() for e in events(run))


def distilling(run: Path) -> bool:
    logs = [events(folder) for folder in (run / "distill").glob("*")]
    return any(e["kind"] == "step" for log in logs for e in log)


PARTS: dict[str, Reached] = {
    "scans": lambda run: any(run.glob("*/*/case-*")) or any(run.glob("hospitals/*/scans/case-*")),
    "train": heard("taught"),
    "collect": heard("collected"),
    "distill": distilling,
    "evaluate": heard("evaluated"),
    "cross": heard("phase-started", phase="cross"),
}


def start(study: Path, run: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "preceptor", "simulate", str(study), "--out", str(run)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill(run: Path, process: subprocess.Popen[bytes]) -> int:
    """End the simulation and every process that it started, none of them asked; how many there were."""
    record = run / "processes.json"
    children = [child["pid"] for child in json.loads(record.read_text())] if record.exists() else []
    os.kill(process.pid, signal.SIGKILL)
    for group in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    process.communicate()
    return 1 + len(children)


def play(study: Path, run: Path) -> None:
    process = start(study, run)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(said.decode())


def play_killed(study: Path, run: Path) -> dict[str, int]:
    """Kill it once in each part, then let it end; processes ended a part, 0 where the part was over too soon."""
    ended = {}
    for part, reached in PARTS.items():
        process = start(study, run)
        while process.poll() is None and not reached(run):
            time.sleep(0.02)
        ended[part] = kill(run, process) if process.poll() is None else 0
    play(study, run)
    return ended


def hashes(run: Path) -> dict[str, str]:
    """Teacher or student → SHA-256 of its weights."""
    found = {f"teacher {p.stem}": json.loads(p.read_text())["weights_hash"] for p in (run / "teachers").glob("*.json")}
    for path in run.glob("distill/*/student.safetensors"):
        found[f"student {path.parent.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, default=Path("studies/tiny.toml"))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        play(chosen.study, whole)
        ended = play_killed(chosen.study, killed)
        expected, found = hashes(whole), hashes(killed)
    same = {name: found.get(name) == value for name, value in expected.items()}
    if chosen.json:
        print(json.dumps({"killed": ended, "same": same, "hashes": expected}))
    else:
        print("\n".join(f"killed in {part:9} {count:3} processes" for part, count in ended.items()))
        print("\n".join(f"{name:24} {expected[name][:16]} {'same' if s else 'DIFFERS'}" for name, s in same.items()))
    sys.exit(0 if all(same.values()) and all(ended.values()) else 1)


if __name__ == "__main__":
    main()
