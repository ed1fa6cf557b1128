"""The text of a release's card: what it is, how to load it, its columns, how it was made, and under which licences."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from builders.exporting import licences
from builders.exporting.columns import RAW, columns
from builders.exporting.pictures import Picture
from schemas.ids import digest

NAME = "ORG/NAME"
"""Stands for the repository (or the directory) until a release is published."""
_BEGIN, _END = "<!-- revision -->", "<!-- /revision -->"
_GRAIN = {
    "pairs": "pair of a preferred and another answer to one prompt",
    "step_pairs": "pair of single steps after the same correct steps",
    "demos": "fine-tuning example",
    "samples": "completion",
    "rewards": "verdict on a completion",
    "step_labels": "completion whose steps are labelled right or wrong",
}
_LEFT = {"test": "rows of test problems", "invalid": "answers that label nothing"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def body(record: dict[str, Any], description: str, test_answers: bool, pictures: Sequence[Picture]) -> str:
    """The card below its front matter."""
    parts = [
        description or _opening(record),
        _configs(record),
        *(f"![{picture.caption}]({picture.path})" for picture in pictures),
        _loading(record),
        *_notes(record, test_answers),
        *(_columns(name, config) for name, config in record["configs"].items()),
        _making(record),
        _licences(record),
        _provenance(record),
    ]
    return "\n\n".join(parts)


def stamped(text: str, revision: str, name: str | None) -> str:
    """A card that names the revision (a full commit id), and where it is published."""
    before, begin, rest = text.rpartition(_BEGIN)  # the last one: a description may say anything
    assert begin, "a card of ours has a place for its revision"
    text = f"{before}{begin}Revision `{revision}` of the project's repository.{_END}{rest.partition(_END)[2]}"
    return text.replace(f'"{NAME}"', f'"{name}"') if name else text


def plain(value: object) -> str:
    """A value as text of one line that Markdown and HTML leave alone."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split())) if value is not None else ""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the cells are written as they are."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _opening(record: dict[str, Any]) -> str:
    config = next(iter(record["configs"]))
    return f"Reasoning data: one row per {_GRAIN[config]}, with the texts and where each of them comes from."


def _configs(record: dict[str, Any]) -> str:
    rows = []
    for name, config in record["configs"].items():
        left = ", ".join(f"{count:,} {_LEFT[reason]}" for reason, count in config["left_out"].items())
        runs = ", ".join(f"`{run}` ({count:,})" for run, count in config["rows_by_run"].items())
        rows.append((f"`{name}`", _GRAIN[name], f"{config['rows']:,}", runs, left or "–"))
    return table(("config", "one row per", "rows", "by run", "left out"), rows)


def _loading(record: dict[str, Any]) -> str:
    name = next(iter(record["configs"]))
    return (
        f'## Loading\n\n```python\nfrom datasets import load_dataset\n\nrows = load_dataset("{NAME}", "{name}",'
        ' split="train")\n```\n\nThe columns that trainers read come first, the others say where a row comes from.'
        f" Without a name, `{name}` is loaded."
    )


def _notes(record: dict[str, Any], test_answers: bool) -> Iterable[str]:
    configs = record["configs"]
    texts = [name for name in ("pairs", "step_pairs", "demos") if name in configs]
    if any(configs[name]["format"] == "standard" for name in texts):
        yield (
            "**Prompts are rendered.** A `prompt` that is a string is what the model reads, the start of its answer"
            " included; of `rendering: chat` it has the template's own special tokens, so tokenize it without adding"
            " any. `prompt_messages` and `prefill` are there to render it for another model."
        )
    if "step_pairs" in configs:
        yield (
            "**A step is no ending.** No end-of-sequence token belongs behind `chosen` and `rejected` of `step_pairs`"
            " (`chosen_eos` and `rejected_eos` are false). Many trainers append one to every completion, which teaches"
            f" a model to stop after a step. The columns {', '.join(f'`{name}`' for name in RAW)} are the raw ones of"
            " Step-DPO."
        )
    if {"pairs", "demos"} & set(configs):
        yield (
            "**Some texts may not have ended.** Where `chosen_eos`, `rejected_eos` or (of demos) `eos` is false, the"
            " text was cut off at its limit: no end-of-sequence token belongs there, and no end of a turn."
        )
    if test_answers:
        yield (
            "**This release holds rows of test problems**, and gives their answers away: do not train on it and then"
            " evaluate on those problems."
        )
    else:
        yield "Rows of problems whose split is `test` are in no config."


def _columns(name: str, config: dict[str, Any]) -> str:
    shown = columns(name, config["format"] == "conversational")
    rows = [(f"`{c.name}`", f"`{_kind(str(c.type))}`", c.meaning) for c in shown]
    return f"## Columns of `{name}`\n\n" + table(("column", "type", "meaning"), rows)


def _kind(name: str) -> str:
    return name.replace("element: ", "").replace("item: ", "")


def _making(record: dict[str, Any]) -> str:
    models = [
        (plain(name), plain(_source(model)), ", ".join(f"`{mark}`" for mark in model["fingerprints"]))
        for name, model in record["models"].items()
    ]
    parts = ["## How it was made"]
    if models:
        parts.append(table(("model", "made from", "fingerprint"), models))
    if record["judges"]:
        names = ("labeler", "kind", "model", "labeler_version", "template")
        rows = [[plain(row[name]) or "–" for name in names] for row in record["judges"]]
        parts.append("Who labelled steps:\n\n" + table(("labeler", "kind", "model", "version", "template"), rows))
    if record["checkers"]:
        named = ", ".join(f"{plain(row['checker'])} {plain(row['version'])}" for row in record["checkers"])
        parts.append(f"Answers were extracted and compared by: {named}.")
    if record["templates"]:
        parts.append("Prompt templates: " + ", ".join(map(plain, record["templates"])) + ".")
    rows = [(plain(r["stage"]), plain(r["run"]), plain(r["table"]) or "–", r["reason"], f"{r['n']:,}")
            for r in record["funnel"]]  # fmt: skip
    funnel = table(("stage", "run", "table", "kept, or why not", "rows"), rows)
    return "\n\n".join([*parts, "What was kept at each stage, and what was dropped and why:\n\n" + funnel])


def _source(model: dict[str, Any]) -> str:
    """Where a model comes from, in a few words."""
    run = model.get("run", {})
    if run.get("hub"):
        return f"{run['hub']} at {run.get('revision')}"
    if "section" in model and model["section"] != "models":
        return f"{run.get('model')}, trained ({model['section']})"
    kinds = {"hosted": f"hosted as {run.get('hosted')}", "config": "initialised", "script": "a script"}
    return next((text for key, text in kinds.items() if run.get(key)), run.get("path", "not a model of the project"))


def _licences(record: dict[str, Any]) -> str:
    rows = [
        (f"`{config}`", plain(row["source"]), plain(row["licence"]), licences.level(row["licence"]), f"{row['rows']:,}")
        for config, found in record["licences"].items()
        for row in found
    ]
    head = f"## Licences\n\nThis release: `{record['licence']}`. Rows of pairs and demos name their own in `licence`."
    return f"{head}\n\n" + table(("config", "source", "licence", "terms", "rows"), rows)


def _provenance(record: dict[str, Any]) -> str:
    return (
        f"## Provenance\n\n{_BEGIN}Not stamped with a revision yet.{_END} `provenance.json` has the params that made it"
        f" (digest `{digest(record['params'])}`), the hash of every file and of the texts of each config."
    )
