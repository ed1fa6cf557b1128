"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

unchecked = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("without a clock", deadline=None, suppress_health_check=unchecked)
settings.load_profile("without a clock")  # a machine may pause at any time
os.environ.setdefault("OMP_NUM_THREADS", "2")
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a ledger of its own."""
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "ledger"))
    root = tmp_path / "workspace"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data with labels, which lies beside a developer's checkout and is no part of the project."""
    path = Path(os.environ.get("PAIRWRIGHT_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}")
    return path
