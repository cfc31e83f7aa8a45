"""site.toml, the policy and the audit log."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import audit
from client.policy import Policy
from client.site import read_site
from imaging.errors import InputError
from imaging.preprocess import Preprocess
from study.answers import Answers, AnswersHeader
from study.plan import Task, Teacher
from study.wire import Assignment, Shard

SITE = 'name = "north"\ndata = "scans"\nworkspace = "work"\nsocket = "s.sock"\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return path


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    config = read_site(written(tmp_path, SITE))
    assert config.data == tmp_path / "scans"
    assert config.workspace == tmp_path / "work"
    assert config.socket == tmp_path / "s.sock"
    assert config.policy == Policy(release=("logits", "attention", "contrast"), max_slices=4096)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SITE + "thread = 2\n", "thread"),
        (SITE + '[policy]\nrelease = ["weights"]\n', "policy.release"),
        (SITE.replace('"north"', '"North Wing"'), "name"),
        (SITE.replace('socket = "s.sock"\n', ""), "socket"),
        (SITE.replace("s.sock", "s" * 120), "longer than the 107 bytes"),
        (SITE + 'teacher = "teacher.pt"\n', "`teacher` is no ONNX file"),
        ("name = north", "is not TOML"),
    ],
)
def test_a_wrong_site_file_is_refused_by_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_site(written(tmp_path, text))
    assert caught.value.fix
    assert "study.toml" not in str(caught.value)


def test_a_workspace_in_the_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('name = "north"\ndata = "scans"\nworkspace = "scans/work"\nsocket = "s.sock"\n')
    with pytest.raises(InputError, match="`workspace` lies in `data`, which is only ever read; name another folder"):
        read_site(path)


def test_a_missing_site_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_site(tmp_path / "none.toml")


def shard(n: int, wants: tuple[str, ...] = ("logits", "attention", "contrast")) -> Shard:
    task = Task(modality="MR", classes=["background", "organ", "lesion"])
    assignment = Assignment(
        study="demo", study_hash="0", seed=3, task=task, preprocess=Preprocess(size=(11, 13)), teacher=Teacher()
    )
    images, masks = np.zeros((n, 1, 11, 13), np.float16), np.zeros((n, 11, 13), np.uint8)
    return Shard(assignment, 5, np.arange(n), images, masks, wants)


def answers(n: int) -> Answers:
    header = AnswersHeader(site="north", index=5, weights_hash="w", fingerprint="f")
    arrays: dict[str, Any] = {
        "logits": np.zeros((n, 3, 11, 13), np.float16),
        "attention/encoder": np.ones((n, 2, 3), np.float16),
        "contrast/encoder": np.zeros((n, 3), np.float32),
        "valid/encoder": np.zeros((n, 3), np.bool_),
    }
    return Answers(header, np.arange(n), arrays)


def test_what_the_policy_does_not_name_stays() -> None:
    released = Policy(release=("logits", "contrast")).released(answers(7))
    assert set(released.arrays) == {"logits", "contrast/encoder", "valid/encoder"}
    released = Policy(release=("logits", "attention")).released(answers(7))
    assert set(released.arrays) == {"logits", "attention/encoder"}
    assert set(Policy().released(answers(7)).arrays) == set(answers(7).arrays)


@pytest.mark.parametrize(
    ("policy", "asked", "words"),
    [
        (Policy(max_slices=6), shard(7), "asks about 7 slices, this site's policy allows 6"),
        (Policy(release=("attention",)), shard(7), "releases no logits"),
        (Policy(), shard(7, ("logits", "pixels")), "asks for pixels, which no site sends"),
    ],
)
def test_a_shard_against_the_policy_is_refused_before_any_work(policy: Policy, asked: Shard, words: str) -> None:
    with pytest.raises(InputError, match=words):
        policy.admit(asked)


def test_the_policy_admits_what_it_allows() -> None:
    Policy(max_slices=7).admit(shard(7))


def test_a_teacher_that_would_be_downloaded_needs_the_policys_leave() -> None:
    pretrained = Teacher(options={"encoder": "resnet18", "pretrained": 1})
    with pytest.raises(InputError, match=r"downloads no pretrained weights; .*set `downloads = true`"):
        Policy().admit_teacher(pretrained)
    Policy(downloads=True).admit_teacher(pretrained)
    Policy().admit_teacher(Teacher(options={"encoder": "resnet18", "pretrained": 0}))


def test_a_full_workspace_begins_nothing_new(tmp_path: Path) -> None:
    (tmp_path / "cache" / "old").mkdir(parents=True)
    (tmp_path / "cache" / "old" / "images.npy").write_bytes(bytes(2**20))
    policy = Policy(workspace_gib=0.0009)
    with pytest.raises(InputError, match=r"holds 0\.0 GiB, its policy allows 0\.0009; .*more `workspace_gib`"):
        policy.admit_folder(tmp_path / "cache" / "new", tmp_path)
    policy.admit_folder(tmp_path / "cache" / "old", tmp_path)
    Policy(workspace_gib=0.001).admit_folder(tmp_path / "cache" / "new", tmp_path)


def test_a_message_larger_than_allowed_is_refused() -> None:
    Policy(max_message_mib=1).admit_bytes(2**20)
    with pytest.raises(InputError, match="larger than the 1 MiB"):
        Policy(max_message_mib=1).admit_bytes(2**20 + 1)


def recorded(workspace: Path, reply: bytes) -> None:
    shapes = {"logits": [2, 3]}
    audit.record(
        workspace, message="answer", study="demo", received=11, reply=reply, kind="AnswersHeader", arrays=shapes
    )


def test_the_audit_log_tells_what_left(tmp_path: Path) -> None:
    recorded(tmp_path, b"first")
    recorded(tmp_path, b"second")
    lines = [json.loads(line) for line in (tmp_path / audit.FILE).read_text().splitlines()]
    assert [line["sha256"] for line in lines] == [hashlib.sha256(reply).hexdigest() for reply in (b"first", b"second")]
    assert lines[0] | {"time": "", "sha256": ""} == {
        "time": "",
        "message": "answer",
        "study": "demo",
        "bytes_in": 11,
        "bytes_out": 5,
        "kind": "AnswersHeader",
        "sha256": "",
        "arrays": {"logits": [2, 3]},
    }


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / audit.FILE).write_text('{"time": "2026-')
    recorded(tmp_path, b"next")
    torn, whole = (tmp_path / audit.FILE).read_text().splitlines()
    assert torn == '{"time": "2026-'
    assert json.loads(whole)["bytes_out"] == 4


def test_nothing_may_leave_where_it_cannot_be_recorded(tmp_path: Path) -> None:
    (tmp_path / audit.FILE).mkdir()
    with pytest.raises(InputError, match="nothing may leave"):
        recorded(tmp_path, b"x")
