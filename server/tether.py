"""Run a command that ends with the process that started it, even when that one is killed.

Run as a file, `python -I -S tether.py PARENT COMMAND…`: it asks Linux for SIGKILL at the parent's death and becomes the
command, so it costs an interpreter's start (15 ms) and leaves nothing behind. Elsewhere it only becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Become `command`, tied to process `parent`; the request outlives exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request was in place
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
