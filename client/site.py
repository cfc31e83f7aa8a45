"""site.toml: what a hospital's engineer sets, and nobody else can."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from client.policy import Policy
from imaging.errors import InputError
from study.plan import Name, Plan, faults

SOCKET_BYTES = 107
"""Longest path of a unix socket on Linux (unix(7): 108 with its end mark)."""


class SiteConfig(Plan):
    """A whole site.toml; folders and files are relative to it."""

    name: Name
    """The site's name in the study, under which its node was registered."""
    data: Path
    """Folder of DICOM series or NIfTI files with their masks; only ever read."""
    workspace: Path
    """Folder that the service may write in: slice cache, checkpoints, logs, overlays."""
    socket: Path
    """Unix socket on which the service listens, for the node on this machine or in the container beside."""
    threads: int = Field(1, ge=1)
    """CPU threads; a teacher is the same again, bit for bit, only at the same number."""
    patients: tuple[int, int] | None = None
    """Only patients from the first number up to, not including, the second, in the order of their ids."""
    masks: int | None = Field(None, ge=0)
    """Only the first so many of these patients keep their masks."""
    keep_mib: int = Field(1024, ge=0)
    """MiB of the study lead's slices that are kept in the workspace, so that they need not be sent again; 0: none."""
    teacher: Path | None = None
    """An ONNX file that is this site's teacher in place of a training; see docs/any-teacher.md."""
    policy: Policy = Policy()


def read_site(path: Path) -> SiteConfig:
    """site.toml checked whole, its folders absolute; InputError names file, key and remedy of every fault."""
    try:
        config = SiteConfig.strictly(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix="name an existing site.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not TOML: {error}", where=path, fix="mend that line") from error
    except ValidationError as error:
        words = faults(error, file=path.name, plan=SiteConfig)
        raise InputError(words, where=path, fix="`preceptor site serve --help` shows a whole site.toml") from error
    base = path.resolve().parent
    named = ("data", "workspace", "socket", *(["teacher"] if config.teacher else []))
    folders = {key: (base / getattr(config, key)).resolve() for key in named}
    if len(str(folders["socket"]).encode()) > SOCKET_BYTES:
        what = f"`socket` is longer than the {SOCKET_BYTES} bytes that a unix socket's path may have"
        raise InputError(what, where=path, fix='choose a shorter one, such as "/run/preceptor/site.sock"')
    if folders["workspace"].is_relative_to(folders["data"]):
        raise InputError("`workspace` lies in `data`, which is only ever read", where=path, fix="name another folder")
    if "teacher" in folders and folders["teacher"].suffix != ".onnx":
        raise InputError("`teacher` is no ONNX file", where=path, fix='name a file that ends in ".onnx"')
    return config.model_copy(update=folders)
