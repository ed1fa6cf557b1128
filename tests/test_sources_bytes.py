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


GENERATED = {"source": "arithmetic", "path": "data/none", "split": "train", "seed": 3, "steps": [1, 4]}
RAGGED = {"source": "gsm8k", "path": "rows.jsonl", "split": "train"}
SHUFFLED = {"shuffle": True, "seed": 5}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            GENERATED | {"skip": 20, "limit": 200},
            "e 1 4 5 4 4 5 7 9 d 8 0   c f c 0 a 7 9 5 1 0 5 8   e e a 7 e 2 8 c 2 8 5 9   d a 8 9 6 2 e 9 a 2 6 d",
        ),
        (
            RAGGED,
            "8 a 4 c 4 2 b 8 a 8 7 8   7 6 1 e b c 3 7 d e f 0   e 7 d 5 9 8 6 4 1 2 a 9   d 4 2 6 d 2 1 5 b 7 8 f",
        ),
        (
            RAGGED | {"skip": 50, "limit": 120},
            "f 5 0 7 8 d 7 2 e 2 1 2   3 8 d c e e a 3 3 1 d 4   9 2 a 5 6 4 9 f 3 2 0 8   8 5 4 5 8 0 d 1 7 a a 8",
        ),
        (
            RAGGED | SHUFFLED | {"skip": 30, "limit": 200},
            "a 1 9 f e f 3 2 2 2 1 6   a 5 a f 3 0 a 3 3 8 b 6   8 6 7 f c 5 f b 3 8 e 4   e d 4 b 8 2 e 8 4 a 8 f",
        ),
        (
            RAGGED | SHUFFLED,
            "8 a 4 c 4 2 b 8 a 8 7 8   7 6 1 e b c 3 7 d e f 0   e 7 d 5 9 8 6 4 1 2 a 9   d 4 2 6 d 2 1 5 b 7 8 f",
        ),
    ],
)
def test_bytes(workspace: Path, config: dict[str, Any], expected: str) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in ragged_rows())
    (workspace / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert digests(config) == expected


@pytest.mark.parametrize(
    ("file", "config", "expected"),
    [
        (
            "gsm8k/train",
            {"source": "gsm8k"},
            "5 9 a 9 7 b c 1 1 4 4 f   4 7 8 c 5 1 5 a c 3 0 5   0 4 8 1 d 0 a 4 e 9 a f   d a 8 9 6 2 e 9 a 2 6 d",
        ),
        (
            "gsm8k/train",
            {"source": "gsm8k", "shuffle": True, "skip": 1000, "limit": 3000},
            "f 5 5 5 a 1 d d 5 3 3 7   7 e 8 7 d 0 4 8 1 6 1 4   e 5 9 8 1 c d c c 0 2 f   d a 8 9 6 2 e 9 a 2 6 d",
        ),
        (
            "math/train",
            {"source": "math"},
            "6 7 1 c 0 0 9 2 2 8 e 5   2 9 e 3 1 4 c b 7 e 4 b   3 9 1 7 7 7 a f 0 f 1 b   a 4 2 b 4 2 4 4 b 2 9 6",
        ),
        (
            "math/test",
            {"source": "math", "shuffle": True, "seed": 1, "limit": 500},
            "1 b 8 3 7 f 4 9 e 2 3 6   0 e 0 1 9 d e e 2 4 f 7   e e 0 f d d 7 1 c d 0 1   d a 8 9 6 2 e 9 a 2 6 d",
        ),
    ],
)
def test_bytes_of_real_rows(
    shared_data: Path, workspace: Path, file: str, config: dict[str, Any], expected: str
) -> None:
    shutil.copy(shared_data / f"{file}.jsonl.gz", "rows.jsonl.gz")
    assert digests(config | {"path": "rows.jsonl.gz", "split": "train"}) == expected
