"""Curves that go elsewhere are the ones that our own events hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from distill import tracking
from imaging.errors import InputError
from preceptor import app
from study.run import events

if TYPE_CHECKING:
    from tests.distill.conftest import MadeRun

MakeRun = Callable[..., "MadeRun"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_term_of_every_step(make_run: MakeRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(2)
    words = ["distill", str(run.folder), "--scheme", "supervised", "--seed", "1", "--track", "tensorboard"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    curves = EventAccumulator(str(run.folder / "tensorboard" / "supervised-seed-1"))
    curves.Reload()
    steps = [event for event in events(run.folder / "distill" / "supervised-seed-1") if event["kind"] == "step"]
    for name in ("dice", "lovasz"):
        told = [(point.step, point.value) for point in curves.Scalars(f"loss/{name}")]
        assert told == [(event["step"], pytest.approx(event["terms"][name], rel=1e-6)) for event in steps]
    assert [point.step for point in curves.Scalars("validation/dice")] == [3, 6, 7]


@pytest.mark.filterwarnings("ignore")  # another's warnings about another's libraries
def test_mlflow_gets_the_same(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = make_run(2)
    words = ["distill", str(run.folder), "--scheme", "supervised", "--seed", "1", "--track", "mlflow"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    [told] = mlflow.search_runs(experiment_names=[run.folder.name], output_format="list")
    assert (told.data.params["scheme"], told.data.params["seed"]) == ("supervised", "1")
    steps = [event for event in events(run.folder / "distill" / "supervised-seed-1") if event["kind"] == "step"]
    points = mlflow.MlflowClient().get_metric_history(told.info.run_id, "loss/dice")
    assert [(point.step, point.value) for point in points] == [(one["step"], one["terms"]["dice"]) for one in steps]


def test_a_tracker_that_fails_ends_no_training(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def failing(*_: object) -> Iterator[tracking.Write]:
        def write(values: dict[str, float], step: int) -> None:
            raise ConnectionError("the server is gone")

        yield write

    run = make_run(2)
    monkeypatch.setattr(tracking, "_tensorboard", failing)
    words = ["distill", str(run.folder), "--scheme", "supervised", "--track", "tensorboard"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    assert caplog.text.count("the tracker failed, and is told no more of this training (the server is gone)") == 1


def test_a_tracker_that_cannot_be_closed_costs_no_student(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = list[str]()

    @contextmanager
    def closing(*_: object) -> Iterator[tracking.Write]:
        try:
            yield lambda values, step: None
        except InputError as error:
            told.append(error.what)
        raise OSError("no space left")

    run = make_run(2)
    monkeypatch.setattr(tracking, "_tensorboard", closing)
    words = ["distill", str(run.folder), "--scheme", "supervised", "--track", "tensorboard"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    assert "the tracker could not be closed, and may lack the end of the curves (no space left)" in caplog.text
    refused = CliRunner().invoke(app, [*words, "--set", "steps=9", "--label", "supervised"])
    assert "holds a student of other settings" in str(refused.exception)
    assert told == ["holds a student of other settings"], "a tracker learns how a training ended"


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_trained(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(2)
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    answer = CliRunner().invoke(app, ["distill", str(run.folder), "--track", "mlflow"])
    assert answer.exit_code != 0
    assert "mlflow is not installed" in str(answer.exception)
    assert not list((run.folder / "distill").glob("*/origin.json"))
