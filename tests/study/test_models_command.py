from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from imaging.errors import InputError
from models.listing import row, table
from models.registry import spec
from study.models_command import models_command

APP = typer.Typer()
APP.command("models")(models_command)


def as_json(*arguments: str) -> list[dict[str, Any]]:
    answer = CliRunner().invoke(APP, [*arguments, "--json"], catch_exceptions=False)
    assert answer.exit_code == 0
    rows: list[dict[str, Any]] = json.loads(answer.stdout)
    return rows


def test_json_lists_one_network_beside_the_paper() -> None:
    (row,) = as_json("enet")
    assert (row["name"], row["role"], row["parameters"], row["paper_parameters"]) == (
        "enet",
        "student",
        353_761,
        353_000,
    )
    assert row["flops"] == pytest.approx(2.24e9, rel=1e-3)
    assert row["paper_flops"] == 2_200_000_000
    assert row["taps"] == {"encoder": {"channels": 128, "stride": 8}, "decoder": {"channels": 16, "stride": 2}}
    assert row["size_multiple"] == 8


def test_other_networks_than_the_papers_stand_without_its_figures() -> None:
    (four,) = as_json("espnet", "--classes", "4")
    assert four["paper_flops"] is None
    assert four["parameters"] > 183_725
    (small,) = as_json("pspnet", "--encoder", "tu-mobilenetv3_small_050")
    assert small["paper_parameters"] is None
    assert small["options"] == {"encoder": "tu-mobilenetv3_small_050"}


def test_an_encoder_lists_the_networks_that_take_one() -> None:
    rows = as_json("--encoder", "tu-mobilenetv3_small_050")
    assert [row["name"] for row in rows] == ["pspnet", "fcn", "deeplabv3plus"]


def test_the_table_holds_the_longest_figures_within_80_columns() -> None:
    console = Console(width=80, record=True, file=StringIO())
    console.print(table([row(spec(name), 2, {}) for name in ("deeplabv3plus", "resnext101")]))
    shown = console.export_text()
    for figure in ("54,749,010 (56.8)", "273.75 (273.94)", "86,740,162 (86.74)", "96.55 (96.54)", "2048/32, 2048/32"):
        assert figure in shown


def test_without_json_a_table_is_printed() -> None:
    answer = CliRunner().invoke(APP, ["espnet"], catch_exceptions=False)
    assert "183,725 (0.183)" in answer.stdout


def test_an_encoder_for_a_network_without_one_is_refused() -> None:
    with pytest.raises(InputError, match="network `enet` has no option `encoder`"):
        CliRunner().invoke(APP, ["enet", "--encoder", "resnet18"], catch_exceptions=False)


def test_a_network_of_volumes_is_counted_at_its_own_size() -> None:
    (vnet,) = as_json("vnet", "--classes", "3")
    assert (vnet["parameters"], vnet["dims"], vnet["size"]) == (45_601_906, 3, [32, 32, 32])
    assert vnet["taps"] == {"encoder": {"channels": 256, "stride": 16}, "decoder": {"channels": 32, "stride": 1}}
    assert (vnet["paper_parameters"], vnet["title"], vnet["fixed_size"]) == (None, "V-Net", False)
    other = row(spec("dynunet"), 8, {"width": 8}, size=(16, 32, 48))
    assert (other["size"], other["options"], other["title"]) == ((16, 32, 48), {"width": 8}, spec("dynunet").title)


def test_slices_and_volumes_have_a_table_each_within_80_columns() -> None:
    rows = [row(spec(name), 2, {}) for name in ("espnet", "vit-autoencoder", "dynunet")]
    console = Console(width=80, record=True, file=StringIO())
    console.print(table(rows))
    shown = console.export_text()
    for words in ("One slice of 1×384×384, 2 classes", "One patch, 2 classes; * takes that size alone", "1×32×32×32*"):
        assert words in shown
    for figure in ("88,969,490", "768/16, 16/4", "5,686,754", "256/16, 16/1"):
        assert figure in shown
    console.print(table(rows[:1]))
    assert "One patch" not in console.export_text()


def test_help_teaches_by_example() -> None:
    answer = CliRunner().invoke(APP, ["--help"])
    assert "preceptor models enet --classes 4" in answer.stdout


@pytest.mark.parametrize(("name", "added"), [("vnet", 3_393), ("dynunet", 1_815)])
def test_what_dsd_adds_in_training_stands_beside_what_stays(name: str, added: int) -> None:
    (found,) = as_json(name, "--classes", "3", "--scheme", "dsd")
    assert found["parameters"] == {"vnet": 45_601_906, "dynunet": 5_686_771}[name]
    assert found["training_only_parameters"] == added


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["enet", "--scheme", "dsd"], "`enet` has no U for DSD to attach to"),
        (["dynunet", "--scheme", "dds"], "no scheme is called `dds`, did you mean `dsd`"),
        (["dynunet", "--option", "width"], "`--option width` is no option; write it as"),
        (["dynunet", "--option", "width=9000"], "option `width` of network `dynunet` cannot be 9000"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        CliRunner().invoke(APP, arguments, catch_exceptions=False)
