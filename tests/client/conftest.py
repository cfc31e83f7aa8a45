"""A small hospital: seven patients' scans."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.wire import Assignment
from tests.client.hospital import make_assignment, write_scans


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital") / "scans"
    write_scans(folder, seed=7)
    return folder


@pytest.fixture(scope="session")
def assignment() -> Assignment:
    return make_assignment()
