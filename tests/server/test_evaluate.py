"""Every distilled student goes to every site that has a teacher, once for each of its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from imaging.errors import InputError
from imaging.preprocess import Preprocess
from study.student import WEIGHTS
from study.wire import EvaluateReply, EvaluateRequest, digest, unpack
from tests.server.loopback import SITES
from tests.study.small_student import write_student

Make = Callable[..., Any]


def put_student(folder: Path, label: str, value: float) -> str:
    """A distilled student on disk; returns its weights' hash."""
    weights = {"stem.weight": np.full((3, 5), value, np.float32)}
    student = folder / "distill" / label
    write_student(student, ["background", "prostate"], Preprocess(), label=label, options={"blocks": 3})
    save_file(weights, student / WEIGHTS)
    return digest(weights)


def test_every_site_evaluates_every_student(trained: Make) -> None:
    bench = trained()
    hashes = {label: put_student(bench.run.folder, label, value) for label, value in [("amtkd", 1.0), ("uniform", 2.0)]}
    bench.conduct("evaluate")
    for label, weights_hash in hashes.items():
        for site in SITES:
            path = bench.run.folder / "evaluation" / label / f"{site}.json"
            reply = EvaluateReply.model_validate_json(path.read_text(encoding="utf-8"))
            assert (reply.site, reply.label, reply.weights_hash, len(reply.test)) == (site, label, weights_hash, 2)
    request, weights = unpack(bench.desks["hospital-c"].asked[0][1], EvaluateRequest)
    assert (request.model, request.options) == ("espnet", {"blocks": 3})
    np.testing.assert_array_equal(weights["stem.weight"], np.ones((3, 5), np.float32))


def test_the_same_weights_are_evaluated_once_and_new_ones_again(trained: Make) -> None:
    bench = trained()
    put_student(bench.run.folder, "amtkd", 1.0)
    put_student(bench.run.folder, "uniform", 2.0)
    bench.conduct("evaluate", "evaluate")
    assert bench.desks["hospital-a"].labels() == ["amtkd", "uniform"]
    put_student(bench.run.folder, "uniform", 3.0)
    bench.conduct("evaluate")
    assert bench.desks["hospital-a"].labels() == ["amtkd", "uniform", "uniform"]


def test_metrics_of_other_weights_are_rejected(trained: Make) -> None:
    bench = trained()
    put_student(bench.run.folder, "amtkd", 1.0)
    desk = bench.desks["hospital-b"]

    def of_yesterday(action: str, body: bytes) -> bytes:
        from study.wire import pack

        reply, _ = unpack(desk.evaluate(body), EvaluateReply)
        return pack(reply.model_copy(update={"weights_hash": "of yesterday"}))

    desk.before = [of_yesterday]
    bench.conduct("evaluate")
    assert [event["site"] for event in bench.events("rejected")] == ["hospital-b"]
    assert (bench.run.folder / "evaluation" / "amtkd" / "hospital-b.json").exists()


def test_without_a_student_nothing_is_asked(trained: Make) -> None:
    with pytest.raises(InputError, match="holds no distilled student"):
        trained().conduct("evaluate")
