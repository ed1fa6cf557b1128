"""The benchmark of pairs: its limits hold, and a peer's pairs are checked against ours."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks import peers
from tests.benchmarks.limited import Limits, run_limited

GENEROUS = Limits(120.0, 16.0)
CASES = [
    # program, limits, outcome
    ("pass", GENEROUS, "ok"),
    ("raise SystemExit('no such thing')", GENEROUS, "failed: no such thing"),
    ("import time; time.sleep(60)", Limits(0.6, 16.0), "over 0.01 minutes"),
    ("x = b'x' * 2**29; import time; time.sleep(60)", Limits(60.0, 0.25), "over 0.25 GiB"),
]


@pytest.mark.parametrize(("program", "limits", "outcome"), CASES, ids=[case[2] for case in CASES])
def test_a_limit_ends_a_command(tmp_path: Path, program: str, limits: Limits, outcome: str) -> None:
    assert run_limited([sys.executable, "-c", program], limits, tmp_path)["outcome"] == outcome


HOLDERS = """
import subprocess, sys
holds = "x = b'x' * 2**27; import time; time.sleep(2)"
for process in [subprocess.Popen([sys.executable, "-c", holds]) for _ in range(int(sys.argv[1]))]:
    process.wait()
"""


def test_the_processes_of_a_command_count_together(tmp_path: Path) -> None:
    peaks = [run_limited([sys.executable, "-c", HOLDERS, n], GENEROUS, tmp_path)["peak_gib"] for n in ("1", "3")]
    assert peaks[1] - peaks[0] > 0.25


@pytest.mark.slow
def test_a_peer_is_checked_against_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers.check(tmp_path / "right", ["datasets"], sys.executable, GENEROUS)
    with pytest.raises(ValueError, match=r"polars: failed: .*install it where `--python` is"):
        peers.check(tmp_path / "missing", ["polars"], sys.executable, GENEROUS)
    other = tmp_path / "datasets_pairs.py"
    program = (Path(peers.__file__).parent / "peer_programs" / "datasets_pairs.py").read_text()
    other.write_text(program.replace("rejected[rank % len(rejected)]", "rejected[0]"))
    monkeypatch.setattr(peers, "_PROGRAMS", tmp_path)
    with pytest.raises(ValueError, match="datasets: its pairs with texts are not ours"):
        peers.check(tmp_path / "other", ["datasets"], sys.executable, GENEROUS)
