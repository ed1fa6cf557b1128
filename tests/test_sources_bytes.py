"""The bytes of problems runs are pinned: whatever builds them, DVC must not see what did not change."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.problems import run
from schemas.params import Params
from stores.paths import rejects_dir, run_dir
from stores.stage import execute


def digests(config: dict[str, Any]) -> str:
    """The first 12 hex digits of each output's SHA-256: problems, answers, solutions, rejects."""
    sections: dict[str, Any] = {name: {} for name in Params.model_fields} | {"seed": 0, "problems": {"pinned": config}}
    Path("params.yaml").write_text(yaml.safe_dump(sections))
    execute("problems", "pinned", run)
    written = [run_dir(table, "pinned") for table in ("problems", "answers", "solutions")]
    parts = [directory / "part-00000.parquet" for directory in (*written, rejects_dir("problems", "pinned"))]
    return " ".join(hashlib.sha256(part.read_bytes()).hexdigest()[:12] for part in parts)


def ragged_rows() -> list[dict[str, str]]:
    """Rows of GSM8K's shape with repeated, unanswered and blank ones, in no order."""
    numbers = [i * 7919 % 211 for i in range(300)]
    endings = {0: "no answer", 1: "####", 2: "#### 5"}
    chains = [f"as <<{n}={n}>>{n}\n{endings.get(i % 9, f'#### {n}')}" for i, n in enumerate(numbers)]
    rows = [{"question": f"«{n}»?", "answer": chain} for n, chain in zip(numbers, chains, strict=True)]
    return [row | {"question": " " * (i % 3)} if i % 41 == 40 else row for i, row in enumerate(rows)]


def write_ragged(workspace: Path) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in ragged_rows())
    (workspace / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


GENERATED = {"source": "arithmetic", "path": "data/none", "split": "train", "seed": 3, "steps": [1, 4]}
RAGGED = {"source": "gsm8k", "path": "rows.jsonl", "split": "train"}
SHUFFLED = {"shuffle": True, "seed": 5}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GENERATED | {"skip": 20, "limit": 200}, "e14544579d80 cfc0a7951058 7c006b40162b da8962e9a26d"),
        (RAGGED, "8a4c42b8a878 761ebc37def0 e7d5986412a9 d426d215b78f"),
        (RAGGED | {"skip": 50, "limit": 120}, "f5078d72e212 38dceea331d4 92a5649f3208 854580d17aa8"),
        (RAGGED | SHUFFLED | {"skip": 30, "limit": 200}, "a19fef322216 a5af30a338b6 867fc5fb38e4 ed4b82e84a8f"),
        (RAGGED | SHUFFLED, "8a4c42b8a878 761ebc37def0 e7d5986412a9 d426d215b78f"),
    ],
)
def test_bytes(workspace: Path, config: dict[str, Any], expected: str) -> None:
    write_ragged(workspace)
    assert digests(config) == expected


@pytest.mark.parametrize(
    ("file", "config", "expected"),
    [
        (
            "gsm8k/train",
            {"source": "gsm8k"},
            "59a97bc1144f 478c515ac305 0481d0a4e9af da8962e9a26d",
        ),
        (
            "gsm8k/train",
            {"source": "gsm8k", "shuffle": True, "skip": 1000, "limit": 3000},
            "f555a1dd5337 7e87d0481614 e5981cdcc02f da8962e9a26d",
        ),
        (
            "math/train",
            {"source": "math"},
            "671c009228e5 29e314cb7e4b 391777af0f1b a42b4244b296",
        ),
        (
            "math/test",
            {"source": "math", "shuffle": True, "seed": 1, "limit": 500},
            "1b837f49e236 0e019dee24f7 ee0fdd71cd01 da8962e9a26d",
        ),
    ],
)
def test_bytes_of_real_rows(
    shared_data: Path, workspace: Path, file: str, config: dict[str, Any], expected: str
) -> None:
    shutil.copy(shared_data / f"{file}.jsonl.gz", "rows.jsonl.gz")
    assert digests(config | {"path": "rows.jsonl.gz", "split": "train"}) == expected


@pytest.mark.parametrize("changes", [{}, SHUFFLED | {"skip": 30, "limit": 200}, {"all_solutions": True}])
def test_bytes_do_not_depend_on_spilling(workspace: Path, monkeypatch: pytest.MonkeyPatch, changes: dict) -> None:
    (workspace.parent / "spills").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(workspace.parent / "spills"))
    write_ragged(workspace)
    whole = digests(RAGGED | changes)
    monkeypatch.setattr("builders.problems._BATCH_ROWS", 32)
    monkeypatch.setattr("builders.sources.spool.IN_MEMORY", 4_000)
    assert digests(RAGGED | changes) == whole
    assert not list((workspace.parent / "spills").iterdir())


@pytest.mark.slow
def test_bytes_do_not_depend_on_memory(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """240 MB of texts by a DuckDB of 60 MB."""
    rows = ({"question": f"{i % 79_000}?", "answer": f"{i} {'wx yz ' * 500}\n#### {i % 7}"} for i in range(80_000))
    with (workspace / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    written = []
    for memory in ("2GB", "60MB"):
        monkeypatch.setenv("PAIRWRIGHT_MEMORY", memory)
        written.append(digests(RAGGED | SHUFFLED | {"all_solutions": True}))
    assert written[0] == written[1]
