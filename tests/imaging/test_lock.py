"""A lock keeps every other process out, until its holder lets go or dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from imaging.lock import Lock

HOLD = "import sys, time; from pathlib import Path; from imaging.lock import Lock; lock = Lock(Path(sys.argv[1])); "
HOLD += "print(lock.take(wait=False), flush=True); time.sleep(600)"


def test_a_lock_is_one_processes_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert not Lock(path).take(wait=False)
    finally:
        holder.kill()
        holder.communicate()
    with Lock(path):
        assert not Lock(path).take(wait=False)
    with Lock(path):
        pass
