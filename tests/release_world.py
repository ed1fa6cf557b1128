"""Release directories from the tables of a small store, written here by the documented format alone."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.training_world import rows

COMMIT = "c0ffee" * 6 + "c0ff"
CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
Rows = list[dict[str, Any]]


def write_release(
    directory: Path,
    root: Path,
    runs: dict[str, Sequence[str]],
    prompts: Sequence[str] = ("train",),
    samples: Sequence[str] = ("drawn",),
    conversational: bool = False,
    shards: int = 2,
) -> Path:
    """`runs`: config -> the runs that it holds; `prompts` and `samples`: the runs that their ids are found in."""
    asked = {row["prompt_id"]: row for run in prompts for row in rows(root, "prompts", run)}
    drawn = {row["sample_id"]: row for run in samples for row in rows(root, "samples", run)}
    make = {"pairs": _pair, "step_pairs": _pair, "demos": _demo}
    configs = {}
    for config, names in runs.items():
        table = "demos" if config == "demos" else "pairs"
        made = [
            make[config](row, asked, drawn, conversational) | {"run": run}
            for run in names
            for row in rows(root, table, run)
        ]
        files = write_shards(directory, config, made, shards)
        configs[config] = {"rows": len(made), "runs": list(names), "texts": "0123456789abcdef", "files": files}
    write_provenance(directory, configs=configs)
    return directory


def write_provenance(directory: Path, **changes: Any) -> None:
    content = {"format": 1, "revision": COMMIT, "params": "", "licences": {}, "funnel": None, "configs": {}} | changes
    (directory / "provenance.json").write_text(json.dumps(content))


def provenance(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "provenance.json").read_text())


def write_shards(directory: Path, config: str, made: Rows, count: int = 1) -> dict[str, str]:
    """Path -> SHA-256. Rows are dealt in turn, so that no order of theirs is relied on."""
    files, schema = {}, _schema(made)
    (directory / config).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = f"{config}/train-{number:05d}-of-{count:05d}.parquet"
        few = made[number::count]
        pq.write_table(pa.Table.from_pylist(few, schema), directory / path)
        files[path] = sha256(directory / path)
    return files


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _schema(made: Rows) -> pa.Schema:
    inferred = pa.Table.from_pylist(made).schema
    chats = {name for name, value in made[0].items() if isinstance(value, list)}
    return pa.schema([pa.field(field.name, CHAT if field.name in chats else field.type) for field in inferred])


def _pair(row: dict[str, Any], asked: dict[str, Any], drawn: dict[str, Any], conversational: bool) -> dict[str, Any]:
    prompt = asked[row["prompt_id"]]
    texts = {
        side: _turn(drawn[row[f"{side}_sample_id"]]["text"][row[f"{side}_start"] : row[f"{side}_end"]], conversational)
        for side in ("chosen", "rejected")
    }
    return _prompt(prompt, conversational) | texts | {"pair_id": "0" * 16} | row


def _demo(row: dict[str, Any], asked: dict[str, Any], drawn: dict[str, Any], conversational: bool) -> dict[str, Any]:
    sample = drawn[row["sample_id"]]
    completion = {"completion": _turn(sample["text"], conversational), "eos": sample["finish_reason"] == "stop"}
    return _prompt(asked[row["prompt_id"]], conversational) | completion | row


def _prompt(prompt: dict[str, Any], conversational: bool) -> dict[str, Any]:
    assert not (conversational and prompt["prefill"]), "a closed turn would come after the given start"
    text = "".join(message["content"] for message in prompt["messages"]) + prompt["prefill"]
    taken = {name: prompt[name] for name in ("prompt_id", "problem_id", "messages", "prefill", "rendering", "template")}
    return {"prompt": prompt["messages"] if conversational else f"<rendered>{text}"} | taken


def _turn(text: str, conversational: bool) -> Any:
    return [{"role": "assistant", "content": text}] if conversational else text
