"""What `diff` takes for the same row in two versions of a table, and where a row's problem, prompt and samples are."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from schemas import TABLES, arrow_schema

CUT = 40
"""Characters of a value that a changed row shows."""


class Compared(NamedTuple):
    """How rows of one table are compared; all but the names of columns are SQL.

    Two rows with the same `identity` are the same row, which is *changed* where another column differs. Columns that
    are `unread` are not compared, since others stand for them: a text's hash for the text, an id for what it hashes.
    """

    identity: tuple[str, ...]
    problem: str = "null"
    prompt: str = "null"
    sample: str = "null"
    rejected: str = "null"
    place: str = "null"
    unread: tuple[str, ...] = ()


_OF_PROMPT, _OF_SAMPLE = "left(prompt_id, 16)", "left(sample_id, 16)"

TRACED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "problems": (("problem_id",), ()),
    "answers": (("problem_id", "answer"), ()),
    "prompts": (("prompt_id",), ("template", "rendering", "prefill", "demo_sample_ids")),
    "samples": (
        ("sample_id", "text_hash"), ("model", "model_fingerprint", "index", "seed", "temperature", "top_p"),
    ),
    "predictions": (("sample_id", "extracted", "normalised"), ("extractor", "extractor_version")),
    "agreements": (("problem_id", "a_answer", "b_answer", "agrees", "kept"), ()),
    "votes": (("prompt_id", "answer", "count", "n"), ()),
    "rewards": (("sample_id", "verdict", "reward"), ("checker", "checker_version")),
    "step_labels": (
        ("sample_id", "labeler", "repeat", "verdict", "first_error", "labels", "steps", "correction"),
        ("kind", "model", "labeler_version", "template"),
    ),
    "rejects": (("problem_id", "prompt_id", "sample_id", "reason", "detail"), ()),
}  # fmt: skip
"""Table that explains others -> the columns that matter to what is made of it, and those that say why they differ."""

COMPARED: dict[str, Compared] = {
    "problems": Compared(("problem_id",), "problem_id", unread=("question", "choices")),
    "answers": Compared(("problem_id",), "problem_id"),
    "solutions": Compared(("problem_id", "style", "index"), "problem_id", place="format('{} {}', style, \"index\")"),
    "prompts": Compared(("prompt_id",), _OF_PROMPT, "prompt_id", unread=("problem_id", "messages")),
    "samples": Compared(("sample_id",), _OF_SAMPLE, "prompt_id", "sample_id", unread=("problem_id", "text")),
    "predictions": Compared(("sample_id",), _OF_SAMPLE, sample="sample_id"),
    "agreements": Compared(("problem_id",), "problem_id", sample="a_sample_id", rejected="b_sample_id"),
    "votes": Compared(("prompt_id",), "problem_id", "prompt_id"),
    "rewards": Compared(("sample_id",), _OF_SAMPLE, sample="sample_id"),
    "scores": Compared(("sample_id",), _OF_SAMPLE, sample="sample_id"),
    "rollouts": Compared(("sample_id",), _OF_SAMPLE, sample="sample_id", place="format('step {}', step)"),
    "step_labels": Compared(
        ("sample_id", "labeler", "repeat"), _OF_SAMPLE, sample="sample_id", place="format('{} {}', labeler, \"repeat\")"
    ),
    "demos": Compared(("prompt_id", "sample_id"), _OF_PROMPT, "prompt_id", "sample_id"),
    "pairs": Compared(
        ("prompt_id", "chosen_sample_id", "rejected_sample_id"), _OF_PROMPT, "prompt_id", "chosen_sample_id",
        "rejected_sample_id", "format('rank {}', rank)", unread=("problem_id",),
    ),
    "reference_logprobs": Compared(
        ("prompt_id", "sample_id", "start", "end", "eos"), _OF_PROMPT, "prompt_id", "sample_id",
        place="format('{}-{}', \"start\", \"end\")",
    ),
    "training": Compared(("step",), place="format('step {}', step)"),
    "rejects": Compared(
        ("problem_id", "prompt_id", "sample_id", "reason", "detail"), "problem_id", "prompt_id", "sample_id",
        place="reason",
    ),
}  # fmt: skip
"""Table -> how its rows are compared."""


def compared_columns(table: str) -> list[str]:
    """The columns that are compared, identity included."""
    return [name for name in TABLES[table].model_fields if name not in COMPARED[table].unread]


def matching(table: str) -> dict[str, str]:
    """What `sql/diff_matched.sql` is filled in with."""
    spec, columns = COMPARED[table], compared_columns(table)
    rest = [name for name in columns if name not in spec.identity]
    return {
        "table": table,
        "identity": sql_list(spec.identity),
        "rest": sql_list(rest) or "1",
        "same": " and ".join(f'old."{name}" is not distinct from new."{name}"' for name in spec.identity),
        "newest": ", ".join(f'coalesce(new."{name}", old."{name}") as "{name}"' for name in columns),
        "whats_new": _whats_new(table, rest),
        **identified(table),
    }


def identified(table: str) -> dict[str, str]:
    """SQL of what every row that differs is told by."""
    rank = {"rank": "rank" if table == "pairs" else "null"}
    return rank | {
        name: getattr(COMPARED[table], name) for name in ("problem", "prompt", "sample", "rejected", "place")
    }


def sql_list(columns: Sequence[str]) -> str:
    """Quoted names with commas between."""
    return ", ".join(f'"{column}"' for column in columns)


def _whats_new(table: str, rest: Sequence[str]) -> str:
    """SQL: what differs between the rows `old` and `new`, as in `rank 1 -> 0; chosen_end 12 -> 30`."""
    schema = arrow_schema(TABLES[table])
    said = ", ".join(
        f"""case when old."{name}" is distinct from new."{name}" then {_said(name, schema.field(name).type)} end"""
        for name in rest
    )
    return f"nullif(concat_ws('; ', {said}), '')" if said else "null::varchar"


def _said(name: str, kind: pa.DataType) -> str:
    if pa.types.is_nested(kind):
        return f"'{name}'"
    old, new = (f"""coalesce(left({side}."{name}"::varchar, {CUT}), 'none')""" for side in ("old", "new"))
    return f"'{name} ' || {old} || ' -> ' || {new}"
