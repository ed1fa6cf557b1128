"""A disk that is full, really: nothing more is asked for, and what was committed stays."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from stores.ledger import RESERVE, Completion, Ledger
from tests.conftest import REPOSITORY

Usage = namedtuple("Usage", "total used free")


def completion(text: str = "8") -> Completion:
    return Completion(text, "stop", 1, 1)


@pytest.fixture
def ledger(tmp_path: Path):
    with contextlib.closing(Ledger(tmp_path)) as opened:
        yield opened


def test_little_room_stops_after_the_batch_is_committed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([RESERVE, RESERVE - 1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, next(free)))
    ledger.append("c", "m0", [("c-1", completion())], 1.0)
    with pytest.raises(OSError, match="only 31 MiB are free, the ledger keeps 32 MiB") as error:
        ledger.append("c", "m0", [("c-2", completion())], 1.0)
    assert "\n" not in str(error.value)
    assert ledger.missing(["c-1", "c-2", "c-3"]) == ["c-3"]


def test_little_room_is_found_out_before_anything_is_asked(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, RESERVE - 1))
    with pytest.raises(OSError, match="free space or point PAIRWRIGHT_LEDGER elsewhere"):
        ledger.begin("c", "m0", "f0", {})


FULL = """
import json, sys
from pathlib import Path
import pyarrow as pa
from builders.generation import Setting, answer
from schemas.sections import Sampling
from stores import ledger as module
from stores.ledger import Completion, Ledger

root, reserve, filler = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
module.RESERVE = reserve
(root / "filler").write_bytes(b"x" * filler)
messages = [{"role": "user", "content": f"{i}"} for i in range(200)]
rows = {"prompt_id": [f"{i:04d}" for i in range(200)], "problem_id": ["p"] * 200,
        "messages": [[m] for m in messages], "prefill": [""] * 200, "rendering": ["text"] * 200}
asked = []

class Engine:
    device_s = 0.0
    def stream(self, requests, sampling, batch_size):
        requests = list(requests)
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            asked.extend(request.key for request in batch)
            yield [(request, Completion("long " * 10_000, "stop", 1, 1)) for request in batch]

ledger = Ledger(root)
setting = Setting("m0", "f0", Sampling(temperature=1.0, max_new_tokens=1), 0, "fp32")
def run():
    try:
        answer(ledger, setting, lambda: [pa.table(rows)], 1, Engine, 20)
    except OSError as error:
        return str(error)
said = run()
first = len(asked)
before = ledger.missing(asked)
(root / "filler").unlink()
then = run()
(rows,) = ledger.sql("select count(*) from completions")[1][0]
print(json.dumps({"said": said, "asked": first, "lost": len(before), "then": then, "again": len(asked) - first,
                  "missing": len(ledger.missing(asked)), "rows": rows}))
"""


def on_a_small_disk(tmp_path: Path, reserve: int, filler: int) -> dict:
    """What `FULL` prints on a file system of 48 MiB, of which a filler takes some."""
    mount = f'mount -t tmpfs -o size=48m tmpfs "{tmp_path}" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    possible = subprocess.run([*command, "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    if possible is None or possible.returncode:
        pytest.skip("no file system can be mounted here")
    script = [sys.executable, "-c", FULL, str(tmp_path), str(reserve), str(filler)]
    done = subprocess.run([*command, *script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_full_disk_stops_before_the_next_request(tmp_path: Path) -> None:
    found = on_a_small_disk(tmp_path, reserve=0, filler=44 * 2**20)
    assert "database or disk is full; free space" in found["said"]
    assert 20 <= found["asked"] < 200
    assert found["lost"] == 20, "the batch that did not fit, and nothing else"
    assert (found["then"], found["again"], found["missing"]) == (None, 200 - found["asked"] + 20, 0)


def test_the_reserve_loses_nothing(tmp_path: Path) -> None:
    found = on_a_small_disk(tmp_path, reserve=8 * 2**20, filler=34 * 2**20)
    assert "7 MiB are free, the ledger keeps 8 MiB in reserve" in found["said"]
    assert 20 <= found["asked"] < 200
    assert (found["lost"], found["then"]) == (0, None)
    assert (found["asked"] + found["again"], found["rows"]) == (200, 200)
