"""The student at a hospital: what it learns, what stays, and all sites' patients together as its upper bound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from client.apprentice import Apprentice, OnMasks, load_local
from client.handlers import Site
from client.matrix import matrix
from client.policy import Policy
from client.pooled import pool
from client.scans import Scans, open_scans
from client.site import SiteConfig
from client.status import Status
from imaging.errors import InputError
from study.averaging_table import LOCAL
from study.baselines import request
from study.plan import Study
from study.prediction import load_student
from study.run import create_or_resume
from study.start import arrays_of, first_student
from study.wire import Arrays, AverageReply, AverageRequest, digest, pack, unpack
from tests.client.hospital import make_assignment, write_scans, write_site

SITES = ("north", "south")


@pytest.fixture(scope="module")
def study() -> Study:
    template = make_assignment()
    return Study.model_validate(
        {
            "name": "demo",
            "task": template.task,
            "preprocess": template.preprocess,
            "teacher": template.teacher,
            "sites": [{"name": name} for name in SITES],
            "student": {"model": "espnet", "sources": [{"folder": "lead"}]},
            "distill": {"threads": 1, "batch": 4, "lr": 0.01, "lr_half_cycle": 2},
            "averaging": {"strategies": ["fedavg"], "local": True, "rounds": 2, "steps": 4, "mu": 1000.0},
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Path:
    """A run folder of a simulation with two hospitals in it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    create_or_resume(folder, study)
    for seed, name in enumerate(SITES):
        write_scans(folder / "hospitals" / name / "scans", seed=seed)
        write_site(folder / "hospitals" / name, folder / "hospitals" / name / "scans", name=name)
    return folder


@pytest.fixture(scope="module")
def start(study: Study) -> Arrays:
    return {name: array.copy() for name, array in arrays_of(first_student(study)).items()}


@pytest.fixture
def north(run: Path, study: Study, tmp_path: Path) -> tuple[SiteConfig, Scans]:
    """A hospital with an empty workspace of its own."""
    config = write_site(tmp_path / "north", run / "hospitals" / "north" / "scans", name="north")
    return config, open_scans(config, request(study, "north", "fedavg", 0, 1).assignment)


def train(site: tuple[SiteConfig, Scans], asked: AverageRequest, start: Arrays) -> tuple[AverageReply, Arrays]:
    return Apprentice(site[0], asked, start, site[1]).train(Status("north"))


def distance(a: Arrays, b: Arrays) -> float:
    """Of what is learned: batch norm's running statistics and counts left out."""
    learned = [name for name in a if name.endswith(("weight", "bias"))]
    return float(np.sqrt(sum(((a[name] - b[name]) ** 2).sum() for name in learned)))


def test_a_round_trains_the_weights_that_were_sent_and_the_same_message_again_nothing(
    north: tuple[SiteConfig, Scans], study: Study, start: Arrays
) -> None:
    asked = request(study, "north", "fedavg", 0, 2)
    reply, trained = train(north, asked, start)
    assert (reply.label, reply.until, reply.sent) == ("fedavg", 2, digest(start))
    assert reply.slices == len(north[1].slices("train"))
    assert set(reply.terms) == {"dice", "lovasz"}
    assert digest(trained) != digest(start)
    (checkpoint,) = north[0].workspace.glob("students/*/fedavg/*/checkpoint.pt")
    before = checkpoint.stat().st_mtime_ns
    again, same = train(north, asked, start)
    assert (again, digest(same), checkpoint.stat().st_mtime_ns) == (reply, digest(trained), before)
    train(north, request(study, "north", "fedavg", 2, 4), trained)
    assert not checkpoint.exists(), "a round that is over is forgotten"


def test_fedprox_keeps_closer_to_the_common_weights(
    north: tuple[SiteConfig, Scans], study: Study, start: Arrays
) -> None:
    _, free = train(north, request(study, "north", "fedavg", 0, 4), start)
    reply, held = train(north, request(study, "north", "fedprox", 0, 4), start)
    assert reply.terms["proximal"] > 0
    assert distance(held, start) < 0.9 * distance(free, start)


def test_the_proximal_term_is_half_mu_times_the_squared_distance(study: Study) -> None:
    network = torch.nn.Conv2d(1, 3, 1)
    learner = OnMasks(network, request(study, "north", "fedprox", 0, 4))
    sent = network.weight.detach().clone()
    batch = (torch.rand(2, 1, 5, 7), torch.zeros(2, 5, 7, dtype=torch.int64))
    assert learner.loss(batch)["proximal"] == 0
    with torch.no_grad():
        torch.nn.init.constant_(network.weight, 0.0).add_(sent + 2.0)
    assert learner.loss(batch)["proximal"].item() == pytest.approx(1000.0 / 2 * 3 * 2.0**2)


def test_alone_in_two_parts_is_alone_in_one(
    north: tuple[SiteConfig, Scans], study: Study, start: Arrays, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no student has been trained here alone"):
        load_local(north[0], study)
    for until in (2, 4):
        _, parts = train(north, request(study, "north", LOCAL, 0, until), start)
    shutil.rmtree(north[0].workspace / "students")
    _, whole = train(north, request(study, "north", LOCAL, 0, 4), start)
    assert digest(parts) == digest(whole)
    assert digest(arrays_of(load_local(north[0], study))) == digest(whole)


@pytest.mark.parametrize(("label", "allowed", "leaves"), [(LOCAL, False, False), ("fedavg", True, True)])
def test_weights_leave_where_the_policy_says_so_and_the_audit_log_names_them(  # noqa: PLR0917
    north: tuple[SiteConfig, Scans], study: Study, start: Arrays, label: str, allowed: bool, leaves: bool
) -> None:
    config = north[0].model_copy(update={"policy": Policy(average=allowed)})
    reply = Site(config).average(pack(request(study, "north", label, 0, 1), start))
    _, arrays = unpack(reply, AverageReply)
    assert bool(arrays) == leaves
    line = json.loads((config.workspace / "audit.jsonl").read_text().splitlines()[-1])
    assert (line["message"], line["kind"], bool(line["arrays"])) == ("average", "AverageReply", leaves)


def test_no_trained_weights_leave_unless_the_policy_says_so(
    north: tuple[SiteConfig, Scans], study: Study, start: Arrays
) -> None:
    with pytest.raises(InputError, match="lets no weights leave that were trained on its patients"):
        Site(north[0]).average(pack(request(study, "north", "fedavg", 0, 1), start))
    assert not (north[0].workspace / "students").exists()


def test_pooled_learns_from_all_sites_and_is_a_student_like_others(run: Path, study: Study, start: Arrays) -> None:
    card = pool(study, run)
    assert (card.label, card.steps, card.teachers) == ("pooled", 4, [])
    _, network = load_student(run / "distill" / "pooled")
    assert digest(arrays_of(network)) == card.weights_hash != digest(start)
    assert pool(study, run).weights_hash == card.weights_hash


def test_pooling_is_refused_where_nobody_has_all_the_scans(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in a real study nobody may see them all"):
        pool(study, tmp_path)


def test_a_simulation_evaluates_every_local_student_at_every_site(
    study: Study, north: tuple[SiteConfig, Scans], start: Arrays
) -> None:
    train(north, request(study, "north", LOCAL, 0, 4), start)
    rows = list(matrix(study, [north[0]], teachers=[], students=[], alone=[north[0]], split="test"))
    assert [(row.network, row.site) for row in rows] == [("local-north", "north")]
