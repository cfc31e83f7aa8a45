"""`preceptor study` explains every key on a narrow terminal too, and checks a study file whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import typer
from click.testing import Result
from typer.testing import CliRunner

from imaging.errors import InputError
from study.commands import study_command
from study.plan import reference

APP = typer.Typer()
APP.command("study")(study_command)


def ask(*arguments: str) -> Result:
    schemes = {"schemes": ["amtkd", "consensus", "supervised", "mono-teacher", "uniform"], "check": lambda study: None}
    return CliRunner(env={"COLUMNS": "80"}).invoke(APP, arguments, obj=schemes)


def test_every_key_is_readable_in_80_columns() -> None:
    shown = ask().stdout
    assert max(map(len, shown.splitlines())) <= 80
    for key, *_ in reference():
        assert f" {key} " in shown
    assert "[whole" in shown, "a type in brackets is no markup"


def test_json_holds_the_same() -> None:
    rows = json.loads(ask("--json").stdout)
    assert [tuple(row.values()) for row in rows] == reference()


def test_a_study_is_checked_down_to_its_encoders(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(tomli_w.dumps(content))
    assert "small is sound as a file: 2 sites, 3 classes" in ask(str(path)).stdout
    content["teacher"]["options"] = {"encoder": "resnet81"}
    path.write_text(tomli_w.dumps(content))
    error = ask(str(path)).exception
    assert isinstance(error, InputError)
    with pytest.raises(InputError, match="no encoder is called `resnet81`"):
        raise error
