"""The app that Flower ships is whole and small; paths and ports come out as they went in."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args
from flwr.common.constant import FAB_MAX_SIZE

from imaging.errors import InputError
from server.deployment import ROOMS, Coordinator, Hospital, assemble, environment, free_ports
from server.federation import SOCKET_BYTES, json_in, socket_path

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("app")
    assemble(folder / "preceptor")
    words = ["flwr", "build", "--app", str(folder / "preceptor")]
    subprocess.run(words, cwd=folder, env=environment(folder / "flower"), check=True, capture_output=True)
    (built,) = folder.glob("*.fab")
    return built.read_bytes()


def test_the_bundle_holds_the_rooms_and_nothing_else(bundle: bytes) -> None:
    names = zipfile.ZipFile(io.BytesIO(bundle)).namelist()
    assert {name.partition("/")[0] for name in names} == {*ROOMS, "pyproject.toml", ".info"}
    assert {"server/app.py", "client/app.py"} <= set(names)
    assert len(bundle) < FAB_MAX_SIZE / 10


def test_both_apps_load_from_the_bundle_alone(bundle: bytes, tmp_path: Path) -> None:
    """What the coordinator sends must be whole: nothing of ours may come from the checkout."""
    zipfile.ZipFile(io.BytesIO(bundle)).extractall(tmp_path)
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import client.app, server.app
ours = [m for name, m in sys.modules.items() if name.partition(".")[0] in {ROOMS!r}]
print(len(ours), [m.__name__ for m in ours if not m.__file__.startswith({str(tmp_path)!r})])
"""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    count, foreign = ran.stdout.split(maxsplit=1)
    assert int(count) > 10
    assert foreign.strip() == "[]"


@pytest.mark.parametrize("name", ['the "new" study', "the lead's study", "b\\c"])
def test_flower_reads_back_paths_with_spaces_and_quotes(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    coordinator = Coordinator(folder / "coordinator", 1)
    hospital = Hospital("hospital-a", folder / "a", folder / "a b.sock", 2)
    hospital.prepare()
    config = parse_config_args([hospital.supernode(coordinator).words[-1]])
    assert config == {"site": "hospital-a", "socket": str(folder / "a b.sock")}
    words = coordinator.run("train", folder, 1).words
    config = parse_config_args([words[words.index("--run-config") + 1]])
    assert config == {"phase": "train", "run": str(folder), "round": 1}


def test_a_new_start_keeps_keys_and_forgets_flowers_state(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path, 1)
    coordinator.prepare()
    secret = (tmp_path / "certificates" / "secret").read_bytes()
    (tmp_path / "state.db-wal").write_text("of an earlier start")
    coordinator.prepare()
    assert not (tmp_path / "state.db-wal").exists()
    assert (tmp_path / "certificates" / "secret").read_bytes() == secret


def test_free_ports_differ() -> None:
    assert len(set(free_ports(7))) == 7


def test_a_socket_fits_what_the_system_allows_however_deep_the_run_lies(tmp_path: Path) -> None:
    deep = tmp_path / ("folder-" * 20)
    assert len(str(socket_path(deep, "hospital-a")).encode()) <= SOCKET_BYTES
    assert socket_path(deep, "hospital-a") != socket_path(deep, "hospital-b")
    assert socket_path(Path("/run"), "hospital-a") == Path("/run/hospitals/hospital-a/service.sock")


def test_what_flower_refuses_is_told() -> None:
    assert json_in('Loading…\n{"success": true, "run-id": "7"}')["run-id"] == "7"
    with pytest.raises(Exception, match="Flower refused: no such connection"):
        json_in('{"success": false, "error-message": "no such connection"}')


def test_sockets_lie_in_no_folder_that_others_can_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    deep = Path("/" + "very-deep/" * 12)
    folder = socket_path(deep, "hospital-a").parent
    assert folder.parent == tmp_path
    folder.chmod(0o755)
    with pytest.raises(InputError, match="is not a folder that only you can open"):
        socket_path(deep, "hospital-a")
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is not a folder that only you can open"):
        socket_path(deep, "hospital-a")
