"""A hospital's service in a process of its own, over its unix socket: what it does, and all that it lets out."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import models
from client import app
from client.scans import open_scans
from client.service import listen
from client.site import SiteConfig
from client.status import Status
from client.teacher import load_teacher
from client.training import Course
from imaging.errors import InputError
from imaging.slices import SliceCache
from study.answers import Answers, AnswersHeader
from study.plan import Amtkd
from study.training import use_threads
from study.wire import (
    Assignment,
    AverageReply,
    AverageRequest,
    Card,
    EvaluateReply,
    EvaluateRequest,
    Failure,
    Shard,
    TeachRequest,
    digest,
    pack,
    unpack,
)
from tests.client.hospital import DAMAGED, PATIENTS, Door, make_assignment, service, write_site

pytestmark = pytest.mark.slow
EPOCHS = 3
POLICY = "[policy]\nmax_slices = 23\nmax_message_mib = 4"


def teach(assignment: Assignment, until: int) -> bytes:
    return pack(TeachRequest(assignment=assignment, until_epoch=until))


def shard(assignment: Assignment, n: int = 19) -> Shard:
    rng = np.random.default_rng(11)
    images = rng.normal(size=(n, 1, 48, 32)).astype(np.float16)
    return Shard(assignment, 2, np.arange(n), images, rng.integers(0, 3, (n, 48, 32)).astype(np.uint8))


def student(assignment: Assignment, *, fill: float | None = None) -> bytes:
    """A fresh student, its first weights all at `fill` if given."""
    torch.manual_seed(2)
    weights = {name: tensor.numpy() for name, tensor in models.create("espnet", 1, 3).state_dict().items()}
    if fill is not None:
        weights[next(iter(weights))].fill(fill)
    request = EvaluateRequest(assignment=assignment, label="amtkd", model="espnet", options={})
    return pack(request, weights)


def average(assignment: Assignment, *, keep: bool = False) -> bytes:
    """To train that student for a step."""
    request = AverageRequest(
        assignment=assignment, label="local" if keep else "fedavg", model="espnet", options={}, first=0, until=1,
        steps=2, keep=keep, batch=2, lr=0.01, lr_min=0.0, lr_half_cycle=2, loss=Amtkd(),
    )  # fmt: skip
    return pack(request, unpack(student(assignment), EvaluateRequest)[1] if keep else None)


def card_of(body: bytes) -> Card:
    return unpack(body, Card)[0]


def same(a: Card, b: Card) -> bool:
    """Equal in all but the seconds that epochs took."""
    plain = [
        card.model_copy(update={"history": [e.model_copy(update={"seconds": 0}) for e in card.history]})
        for card in (a, b)
    ]
    return plain[0] == plain[1]


@pytest.fixture(scope="module")
def assignment() -> Assignment:
    return make_assignment(epochs=EPOCHS)


@pytest.fixture(scope="module")
def config(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    return write_site(tmp_path_factory.mktemp("north"), scans, more=POLICY)


@pytest.fixture(scope="module")
def door(config: SiteConfig) -> Iterator[Door]:
    with service(config.socket.parent / "site.toml") as door:
        yield door


@pytest.fixture(scope="module")
def reference(scans: Path, tmp_path_factory: pytest.TempPathFactory, assignment: Assignment) -> Card:
    """The same training in one go, without a service."""
    use_threads(1)
    config = write_site(tmp_path_factory.mktemp("reference"), scans)
    return Course(config, assignment, open_scans(config, assignment)).teach(EPOCHS, Status("north"))


@pytest.fixture(scope="module")
def card(door: Door, assignment: Assignment) -> Card:
    """The teacher, taught by a message that came twice at once, and looked at meanwhile."""
    with ThreadPoolExecutor(2) as pool:
        replies = [pool.submit(door.post, "teach", teach(assignment, EPOCHS)) for _ in range(2)]
        seen = []
        while not all(reply.done() for reply in replies):
            seen.append(door.status())
            time.sleep(0.05)
    first, second = (reply.result() for reply in replies)
    assert first.status_code == 200
    assert first.content == second.content, "one training for both"
    training = [now for now in seen if now["busy"] == "teach" and now["doing"] == "training"]
    assert {"site": "north", "study": "demo", "epochs": EPOCHS}.items() <= training[-1].items()
    assert len({now["step"] for now in training}) > 3, "the status goes on while training does"
    assert door.status()["busy"] is None
    return card_of(first.content)


def test_the_card_is_that_of_the_same_training_without_a_service(card: Card, reference: Card) -> None:
    assert same(card, reference)
    assert card.finished
    assert card.epochs == len(card.history) == EPOCHS
    assert card.patients == {"train": 4, "val": 2, "test": 1}
    assert card.set_aside == 1


def test_a_message_that_comes_again_trains_no_further(
    door: Door, card: Card, assignment: Assignment, config: SiteConfig
) -> None:
    (checkpoint,) = config.workspace.glob("teacher/*/checkpoint.pt")
    before = checkpoint.stat().st_mtime_ns
    for until in (1, EPOCHS):
        assert card_of(door.post("teach", teach(assignment, until)).content) == card
    assert checkpoint.stat().st_mtime_ns == before


def test_answers_are_the_live_teachers_and_the_same_again(
    door: Door, card: Card, assignment: Assignment, config: SiteConfig
) -> None:
    asked = shard(assignment)
    body = door.post("answer", asked.pack()).content
    assert door.post("answer", asked.pack()).content == body
    answers = Answers.unpack(body, asked)
    assert answers.header.weights_hash == card.weights_hash
    use_threads(1)
    live = load_teacher(config, assignment)
    assert digest(live.answer(asked).arrays) == digest(answers.arrays)


def test_a_student_is_evaluated_on_the_sites_test_patients(door: Door, card: Card, assignment: Assignment) -> None:
    first = door.post("evaluate", student(assignment))
    reply, _ = unpack(first.content, EvaluateReply)
    assert (reply.site, reply.label, len(reply.val), len(reply.test)) == ("north", "amtkd", 2, 1)
    assert set(reply.test[0].metrics["dice"]) == {"organ", "lesion"}
    assert door.post("evaluate", student(assignment)).content == first.content


def test_of_a_student_that_stays_neither_weights_nor_losses_leave(
    door: Door, card: Card, assignment: Assignment
) -> None:
    reply, arrays = unpack(door.post("average", average(assignment, keep=True)).content, AverageReply)
    assert (reply.site, reply.until, reply.terms, arrays) == ("north", 1, {}, {})


def test_the_thin_app_hands_both_ways(door: Door, card: Card, assignment: Assignment, config: SiteConfig) -> None:
    reply = app.ask(str(config.socket), "teach", teach(assignment, 1))
    door.sent.append(reply)
    assert card_of(reply) == card


@pytest.mark.parametrize(
    ("work", "case", "words"),
    [
        ("answer", "untrained", "no teacher has been trained"),
        ("answer", "too many", "allows 23"),
        ("answer", "garbage", "not a message of Preceptor"),
        ("answer", "too large", "larger than the 4 MiB"),
        ("average", "weights kept", "lets no weights leave"),
        ("teach", "wrong kind", "expected TeachRequest, got"),
        ("teach", "no such classes", "no outlined"),
        ("evaluate", "not finite", "NaN"),
        ("evaluate", "unforeseen", "an unforeseen fault of the site's service"),
    ],
)
def test_a_failure_names_cause_site_and_remedy_and_no_patient(  # noqa: PLR0917
    door: Door, card: Card, assignment: Assignment, config: SiteConfig, work: str, case: str, words: str
) -> None:
    two = make_assignment(task=assignment.task.model_copy(update={"classes": ["background", "organ"]}))
    body = {
        "untrained": lambda: shard(make_assignment(seed=999)).pack(),
        "too many": lambda: shard(assignment, 24).pack(),
        "garbage": lambda: b"\x07garbage" * 99,
        "too large": lambda: bytes(4 * 2**20 + 1),
        "weights kept": lambda: average(assignment),
        "wrong kind": lambda: shard(assignment).pack(),
        "no such classes": lambda: teach(two, 1),
        "not finite": lambda: student(assignment, fill=np.nan),
        "unforeseen": lambda: student(assignment, fill=1.0),
    }[case]()
    if case == "unforeseen":  # somebody deletes what the service does not expect to go
        for path in config.workspace.glob("cache/*/native/*.npy"):
            path.unlink()
    response = door.post(work, body)
    assert response.status_code == 422
    failure, _ = unpack(response.content, Failure)
    assert words in failure.cause
    assert failure.site == "north"
    names = [*PATIENTS, DAMAGED, str(config.data), str(config.workspace), ".nii", "Traceback"]
    assert not [name for name in names if name.encode() in response.content]
    log = (config.workspace / "service.log").read_text()
    assert failure.cause in log
    last = json.loads((config.workspace / "audit.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["bytes_in"]) == ("Failure", len(body))


def test_what_a_service_writes_only_its_user_may_read(door: Door, card: Card, config: SiteConfig) -> None:
    written = list(config.workspace.rglob("*"))
    assert {"checkpoint.pt", "images.npy", "audit.jsonl"} <= {path.name for path in written}
    assert [path.name for path in written if path.stat().st_mode & 0o077] == []


def test_every_reply_stands_in_the_audit_log(door: Door, card: Card, config: SiteConfig) -> None:
    lines = [json.loads(line) for line in (config.workspace / "audit.jsonl").read_text().splitlines()]
    left = [body for body in door.sent if not body.startswith(b'{"site"')]  # the status, which stays on the machine
    assert Counter(hashlib.sha256(body).hexdigest() for body in left) == Counter(line["sha256"] for line in lines)
    (shapes,) = {json.dumps(line["arrays"]) for line in lines if line["kind"] == "AnswersHeader"}
    assert json.loads(shapes)["logits"] == [19, 3, 48, 32]


def test_no_byte_of_the_sites_pixels_or_weights_leaves(
    door: Door, card: Card, assignment: Assignment, config: SiteConfig
) -> None:
    secrets = list(pixels(config)) + list(weights(config, assignment))
    assert len(secrets) > 3000
    assert {hashlib.sha256(body).digest() for body in door.sent}, "there is something to search"
    everything = b"|".join([*dict.fromkeys(door.sent), *squeezed_in(door.sent)])
    assert len(everything) > 150_000
    assert not [name for name, secret in secrets if secret in everything]
    name, secret = secrets[1234]
    assert secret in everything + b"planted" + secret, f"the search would find {name}"


def squeezed_in(sent: list[bytes]) -> Iterator[bytes]:
    """The arrays of all answers as they were before they were squeezed."""
    for body in dict.fromkeys(sent):
        if b"AnswersHeader" in body:
            yield from (array.tobytes() for array in unpack(body, AnswersHeader)[1].values())


def pixels(config: SiteConfig) -> Iterator[tuple[str, bytes]]:
    """Rows and columns of every scan and slice, and every outlined slice, in each form that they take."""
    for path in sorted(config.data.glob("*_seg.nii.gz")):
        for plane in np.moveaxis(nifti(path), 2, 0):
            yield from forms(path.name, plane, np.uint8)
    for path in (config.data / f"{patient}.nii.gz" for patient in PATIENTS):
        for plane in np.moveaxis(nifti(path), 2, 0):
            for line in (*plane[::6], *plane.T[::6]):
                yield from forms(path.name, line, np.int16, np.float32, np.float16)
    (cache,) = (SliceCache.open(folder) for folder in config.workspace.glob("cache/*-3"))
    for row in cache.stack[:, :, ::6].reshape(-1, cache.stack.shape[3]):
        yield from forms("slice", row, np.float16, np.float32)


def nifti(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


def forms(name: str, array: np.ndarray[Any, Any], *dtypes: type[np.generic]) -> Iterator[tuple[str, bytes]]:
    """The array's bytes as each type; nothing of an array of one value, which means nothing."""
    if array.min() < array.max():
        yield from ((f"{name} {dtype.__name__}", array.astype(dtype).tobytes()) for dtype in dtypes)


def weights(config: SiteConfig, assignment: Assignment) -> Iterator[tuple[str, bytes]]:
    """Every tensor of the teacher that is more than a constant."""
    for name, tensor in load_teacher(config, assignment).network.state_dict().items():
        if tensor.numel() > 3 and tensor.float().std() > 0:
            for dtype in (torch.float32, torch.float16):
                yield f"{name} {dtype}", tensor.to(dtype).numpy().tobytes()[:4096]


def test_the_log_tells_an_engineer_what_happened(door: Door, card: Card, config: SiteConfig) -> None:
    log = (config.workspace / "service.log").read_text()
    for words in (
        "site north serves on",
        f"epoch {EPOCHS} of {EPOCHS}: loss",
        "shard 2: 19 slices",
        "put aside:",
        DAMAGED,
    ):
        assert words in log


def test_a_socket_in_use_is_refused_and_a_dead_ones_replaced(door: Door, config: SiteConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another service listens there"):
        listen(config.socket)
    assert stat.S_IMODE(config.socket.stat().st_mode) == 0o600
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a socket"):
        listen(tmp_path / "file")


def test_killed_and_stopped_while_training_it_ends_with_the_same_weights(
    scans: Path, tmp_path: Path, assignment: Assignment, reference: Card
) -> None:
    config = write_site(tmp_path, scans)
    # SIGTERM last: the second of grace that it gives may be enough to finish
    for number, epochs in ((signal.SIGKILL, 1), (signal.SIGTERM, 2)):
        with service(tmp_path / "site.toml") as door:
            asking = threading.Thread(target=door.post_and_lose, args=("teach", teach(assignment, EPOCHS)))
            asking.start()
            deadline = time.monotonic() + 60
            while (now := door.status())["epoch"] < epochs or now["step"] % 6 == 0:
                assert now["epoch"] < EPOCHS
                assert time.monotonic() < deadline, now
                time.sleep(0.01)
            started = time.monotonic()
            door.process.send_signal(number)
            code = door.process.wait(timeout=10)
            assert time.monotonic() - started < 5
            asking.join()
        assert code == (0 if number is signal.SIGTERM else -9)
        assert config.socket.exists() == (number is signal.SIGKILL)
    use_threads(1)
    course = Course(config, assignment, open_scans(config, assignment))
    assert same(course.teach(EPOCHS, Status("north")), reference)
